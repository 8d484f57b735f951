-- Run by MariaDB at each start. The password is a throw-away: the port is not published.
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS 'slurm'@'%' IDENTIFIED BY 'throw-away';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'%';
