// The programs of a Kubernetes control plane and node in one binary, which `build` makes:
//
//	cluster apiserver|controller-manager|scheduler|kubelet [the program's flags]
//	cluster etcd DIRECTORY CLIENT-PORT PEER-PORT
//
// One binary instead of five: most of their code is the same, and so is the time to link it.
package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"reflect"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	manager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	var command *cobra.Command
	switch os.Args[1] {
	case "etcd":
		if len(os.Args) != 5 {
			usage()
		}
		fmt.Fprintln(os.Stderr, runEtcd(os.Args[2], os.Args[3], os.Args[4]))
		os.Exit(1)
	case "apiserver":
		command = apiserver.NewAPIServerCommand()
	case "controller-manager":
		command = manager.NewControllerManagerCommand()
	case "scheduler":
		command = scheduler.NewSchedulerCommand()
	case "kubelet":
		command = newKubelet()
	default:
		usage()
	}
	os.Args = append(os.Args[:1], os.Args[2:]...)
	os.Exit(cli.Run(command))
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: cluster apiserver|controller-manager|scheduler|kubelet [flags]")
	fmt.Fprintln(os.Stderr, "       cluster etcd DIRECTORY CLIENT-PORT PEER-PORT")
	os.Exit(2)
}

// newKubelet takes the kubelet's constructor as it is: with a context since 1.33, without before.
func newKubelet() *cobra.Command {
	constructor := reflect.ValueOf(kubelet.NewKubeletCommand)
	var arguments []reflect.Value
	if constructor.Type().NumIn() == 1 {
		arguments = append(arguments, reflect.ValueOf(context.Background()))
	}
	return constructor.Call(arguments)[0].Interface().(*cobra.Command)
}

// runEtcd serves on loopback, and returns only an error. Its disk is never synced: what a crash of
// the machine leaves is thrown away anyway.
func runEtcd(directory, clientPort, peerPort string) error {
	config := embed.NewConfig()
	config.Dir = directory
	config.ListenClientUrls = loopback(clientPort)
	config.AdvertiseClientUrls = loopback(clientPort)
	config.ListenPeerUrls = loopback(peerPort)
	config.AdvertisePeerUrls = loopback(peerPort)
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.UnsafeNoFsync = true
	config.LogLevel = "warn"
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	return <-etcd.Err()
}

func loopback(port string) []url.URL {
	return []url.URL{{Scheme: "http", Host: "127.0.0.1:" + port}}
}
