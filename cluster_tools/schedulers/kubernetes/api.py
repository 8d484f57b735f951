"""Sends requests to a Kubernetes API server, each with a time limit; bodies and answers are dicts.

Configuration and transport are the official client's; its typed objects are not used, since they
refuse fields that are newer than the client. Knows HTTP and the server's answers, no jobs.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import quote, urlencode

from cluster_tools import __version__
from cluster_tools.schedulers.base import Refused, SchedulerError, Unreachable

try:
    import urllib3
    from kubernetes import config
    from kubernetes.client import Configuration
    from kubernetes.client.rest import RESTClientObject
    from urllib3.util.ssl_ import create_urllib3_context
except ImportError as exc:
    raise ImportError(
        "the strategy kubernetes needs the extra of that name: pip install "
        "'cluster_tools[kubernetes]'"
    ) from exc

# Time limits of one request: nothing of ours may wait for ever.
CONNECT_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 30.0
# After so long without an event a watch counts as dead: a server sends a bookmark each minute.
WATCH_SILENCE_S = 90.0
# How long a request waits until the time that a busy server has named (Retry-After). Where it would
# have to wait longer, it fails at once, and is made again later.
_MAX_WAIT_S = 5.0
# The longest such time that is believed.
_MAX_RETRY_AFTER_S = 300
# How many bytes a message quotes of an answer that is not Kubernetes'.
_SHOWN_BYTES = 500
# Objects on one page of a list. https://kubernetes.io/docs/reference/using-api/api-concepts/
_PAGE = 500

_client_config: Any = config  # the client has no types

_SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"

# Codes after which the same request may succeed later: too many requests, or a server that is not
# there or not ready.
_TRANSIENT_CODES = {408, 429, 500, 502, 503, 504}

_logger = logging.getLogger("cluster_tools")


class ApiError(SchedulerError):
    """The server has refused a request. `status`: the HTTP code. `message`: the server's words."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Forbidden(ApiError):
    """The user may not do this; the message names the verb and the resource."""


class CredentialsExpired(Unreachable):
    """The server refuses our credentials, also after the configuration was read again."""


class Silent(Unreachable):
    """A watch was accepted, but brought nothing, not even bookmarks: a proxy may hold it back."""


class Gone(ApiError):
    """The server does not know the version any more from which to watch: list again."""


def own_namespace() -> str | None:
    """The namespace of the pod that this process runs in; None outside of pods."""
    try:
        with open(os.path.join(_SERVICE_ACCOUNT, "namespace")) as file:
            return file.read().strip()
    except OSError:
        return None


class _Source:
    """Where the configuration comes from, as for kubectl.

    KUBECONFIG, else ~/.kube/config, else the service account of the pod. Decided once, so that a
    later `kubectl config use-context` or `chdir` changes nothing.
    """

    def __init__(self, context: str | None):
        """`context`: of the configuration; None: its current one.

        Raises: RuntimeError, with what to do, where there is no configuration.
        """
        # Paths of files, joined as KUBECONFIG has them; None: the service account.
        self.path: str | None = None
        self.context = context
        named = os.environ.get("KUBECONFIG")
        default = os.path.expanduser("~/.kube/config")
        token = os.path.join(_SERVICE_ACCOUNT, "token")
        in_pod = "KUBERNETES_SERVICE_HOST" in os.environ
        if named:
            self.path = os.pathsep.join(map(os.path.abspath, named.split(os.pathsep)))
        elif in_pod and os.path.exists(token) and context is None:
            return
        elif os.path.exists(default):
            self.path = default
        elif not in_pod:
            raise RuntimeError(
                "there is no Kubernetes configuration: neither KUBECONFIG nor ~/.kube/config, "
                "and this is no pod"
            )
        else:
            raise RuntimeError(
                "this pod has no service account token, so it cannot submit Jobs: the executor "
                "that "
                'made it has to name one, job_resources={"service_account": ...}'
            )
        if self.context is None:
            try:
                self.context = _client_config.list_kube_config_contexts(self.path)[1]["name"]
            except _client_config.ConfigException as exc:
                raise _unusable(exc) from exc

    def load(self) -> Any:
        """Reads the configuration. Raises: RuntimeError, where it is of no use."""
        configuration: Any = Configuration()
        try:
            if self.path is None:
                _client_config.load_incluster_config(configuration)
            else:
                _client_config.load_kube_config(
                    self.path, self.context, configuration, persist_config=False
                )
        except _client_config.ConfigException as exc:
            raise _unusable(exc) from exc
        return configuration


def _unusable(exc: Exception) -> RuntimeError:
    return RuntimeError(f"the Kubernetes configuration can't be used: {exc}")


def _has_credentials(configuration: Any) -> bool:
    return bool(configuration.auth_settings() or configuration.cert_file)


def _transport(configuration: Any) -> urllib3.PoolManager:
    """A pool of connections that has read all certificates.

    The client's own pool would read them again for each connection, and the client deletes
    temporary ones at exit, when the executor may still wait for calls.
    """
    manager = RESTClientObject(configuration).pool_manager
    keywords: dict[str, Any] = manager.connection_pool_kw
    ca_file, ca_bytes = keywords.pop("ca_certs", None), keywords.pop("ca_cert_data", None)
    cert_file, key_file = keywords.pop("cert_file", None), keywords.pop("key_file", None)
    tls = create_urllib3_context()
    if configuration.verify_ssl:
        # As kubectl does: many clusters' own certificates lack what the strict mode asks for.
        tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if ca_file or ca_bytes:
            tls.load_verify_locations(ca_file, None, ca_bytes)
        else:
            tls.load_default_certs()
    else:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    if cert_file:
        tls.load_cert_chain(cert_file, key_file)
    keywords["ssl_context"] = tls
    keywords["maxsize"] = 4  # the watch, and threads that ask meanwhile
    return manager


class ApiServer:
    """Sends requests of one user to one API server. Each method may be called from any thread.

    All raise SchedulerError: ApiError and its children, where the server refuses; else Unreachable.
    `query`: parameters of the address; `path`: below the server's address.
    """

    def __init__(self, context: str | None = None):
        """Raises: RuntimeError, where there is no configuration."""
        self._source = _Source(context)
        self._reload_lock = threading.Lock()
        self._not_before = 0.0
        self._configuration = self._source.load()
        self._manager = _transport(self._configuration)

    @property
    def context(self) -> str | None:
        return self._source.context

    @property
    def config_path(self) -> str | None:
        """KUBECONFIG for another process that uses the same server; None in a pod."""
        return self._source.path

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        return self._call("GET", path, query)

    def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._call("POST", path, {}, body)

    def patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Changes an object by a JSON merge patch."""
        return self._call("PATCH", path, {}, body)

    def delete(self, path: str, *, timeout_s: float = REQUEST_TIMEOUT_S, **query: Any) -> None:
        """Deletes an object, or all objects of a selector. That there is none is no error."""
        try:
            self._call("DELETE", path, query, timeout_s=timeout_s)
        except ApiError as exc:
            if exc.status != 404:
                raise

    def list(self, path: str, **query: Any) -> tuple[list[dict[str, Any]], str]:
        """All objects, fetched page by page, and the resource version from which to watch."""
        items: list[dict[str, Any]] = []
        more = ""
        while True:
            page = self.get(path, limit=_PAGE, **query, **({"continue": more} if more else {}))
            items += page.get("items") or []
            more = page["metadata"].get("continue") or ""
            version = page["metadata"].get("resourceVersion")
            if not isinstance(version, str):
                raise Unreachable(f"GET {path}: the server's list has no resourceVersion")
            if not more:
                return items, version

    def watch(self, path: str, *, timeout_s: float, **query: Any) -> Watch:
        """Opens a watch. `timeout_s`: after so long the server ends it. Raises: SchedulerError."""
        query = {
            **query,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": int(timeout_s),
        }
        try:
            response = self._open("GET", path, query, read_timeout_s=WATCH_SILENCE_S)
        except Unreachable as exc:
            if isinstance(exc.__cause__, urllib3.exceptions.ReadTimeoutError):
                raise Silent(f"no answer to one began within {WATCH_SILENCE_S:.0f} s") from exc
            raise
        return Watch(response, self._configuration.host)

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any],
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> dict[str, Any]:
        response = self._open(method, path, query, body, read_timeout_s=timeout_s)
        try:
            answer: Any = json.loads(response.data)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as exc:
            if not _is_json(response):
                host = self._configuration.host
                raise Unreachable(f"{method} {path}: {_who_else(host, response)}") from exc
            raise Unreachable(f"{method} {path}: the answer was cut short: {exc}") from exc
        finally:
            response.release_conn()
        if not _is_object(answer, or_status=method == "DELETE"):
            words = _who_else(self._configuration.host, response, response.data)
            raise Unreachable(f"{method} {path}: {words}")
        for warning in response.headers.getlist("Warning"):
            # `299 - "words"`, https://kubernetes.io/blog/2020/09/03/warnings/
            words = warning.partition('"')[2].removesuffix('"').replace('\\"', '"')
            _logger.warning("Kubernetes warns: %s", words)
        return cast(dict[str, Any], answer)

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any],
        body: Mapping[str, Any] | None = None,
        *,
        read_timeout_s: float,
    ) -> urllib3.BaseHTTPResponse:
        """The response to a request that went well, its body unread."""
        manager = self._manager
        response = self._request(manager, method, path, query, body, read_timeout_s)
        if response.status >= 300:
            error = self._error(response, f"{method} {path}")
            if not isinstance(error, CredentialsExpired):
                raise error
            self._reload(manager)
            response = self._request(self._manager, method, path, query, body, read_timeout_s)
            if response.status >= 300:
                raise self._error(response, f"{method} {path}")
        return response

    def _error(self, response: urllib3.BaseHTTPResponse, what: str) -> SchedulerError:
        wait_s = retry_after_s(response.headers)
        if wait_s is not None:
            self._not_before = time.monotonic() + wait_s
        return _error(response, what, self._configuration.host)

    def _wait_as_asked(self, what: str) -> None:
        """Waits until the time that the server has named. Raises: Unreachable, if it is too far."""
        left_s = self._not_before - time.monotonic()
        if left_s > _MAX_WAIT_S:
            raise Unreachable(f"{what}: the server has asked to wait for {left_s:.0f} s more")
        if left_s > 0:
            time.sleep(left_s)

    def _request(
        self,
        manager: urllib3.PoolManager,
        method: str,
        path: str,
        query: Mapping[str, Any],
        body: Mapping[str, Any] | None,
        read_timeout_s: float,
    ) -> urllib3.BaseHTTPResponse:
        self._wait_as_asked(f"{method} {path}")
        text = urlencode({name: value for name, value in query.items() if value is not None})
        url = f"{self._configuration.host}{quote(path)}{'?' + text if text else ''}"
        kind = "merge-patch+json" if method == "PATCH" else "json"
        headers = {
            "Accept": "application/json",
            "Content-Type": f"application/{kind}",
            "User-Agent": f"cluster_tools/{__version__}",
        }
        try:
            for credential in self._configuration.auth_settings().values():
                headers[credential["key"]] = credential["value"]
        except Exception as exc:  # of a plugin or a file, which may work the next time
            raise Unreachable(f"{method} {url}: no credentials: {exc}") from exc
        try:
            return manager.request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=read_timeout_s),
                retries=False,  # urllib3's own would multiply the time limit
                redirect=False,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise Unreachable(f"{method} {url}: {exc}") from exc

    def _reload(self, seen: urllib3.PoolManager) -> None:
        """Reads the configuration again, unless another thread has. Raises: CredentialsExpired.

        `seen`: the pool that had the expired credentials.
        """
        with self._reload_lock:
            if self._manager is not seen:
                return
            try:
                configuration = self._source.load()
                manager = _transport(configuration)
                # Where a plugin fails, the client goes on without
                # credentials, as an anonymous user.
                if _has_credentials(self._configuration) and not _has_credentials(configuration):
                    raise RuntimeError("the configuration has none at the moment")
            except Exception as exc:
                raise CredentialsExpired(f"credentials expired, and no new ones: {exc}") from exc
            self._configuration, self._manager = configuration, manager
            _close(seen)

    def close(self) -> None:
        """Closes all connections that are not in use."""
        _close(self._manager)


class Watch:
    """An open watch: yields (type, object), until the server ends it or somebody closes it."""

    def __init__(self, response: urllib3.BaseHTTPResponse, host: str):
        self._response = response
        self._host = host

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Raises: Gone; Silent; Unreachable, where the connection breaks."""
        rest = b""
        try:
            for chunk in self._response.stream(1 << 16, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield self._read(line)
            if rest:
                yield self._read(rest)
        except urllib3.exceptions.ReadTimeoutError as exc:
            raise Silent(f"the watch has said nothing for {WATCH_SILENCE_S:.0f} s") from exc
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as exc:
            raise Unreachable(f"the watch broke off: {exc}") from exc
        finally:
            self._response.close()

    def _read(self, line: bytes) -> tuple[str, dict[str, Any]]:
        try:
            read: Any = json.loads(line)
        except ValueError:
            if _is_json(self._response):
                raise
            read = None
        event = cast(dict[str, Any], read if isinstance(read, dict) else {})
        kind: Any = event.get("type")
        item: Any = event.get("object")
        if not isinstance(kind, str) or not _is_object(item, or_status=kind == "ERROR"):
            raise Unreachable(f"a watch: {_who_else(self._host, self._response, line)}")
        if kind == "ERROR":
            error = Gone if item.get("code") == 410 else ApiError
            raise error(item.get("code", 0), item.get("message", "?"))
        return kind, item

    def close(self) -> None:
        """Ends the watch, from any thread: the thread that reads it stops reading."""
        connection: Any = getattr(self._response, "connection", None)
        sock = getattr(connection, "sock", None)
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:  # closed already
                pass


def _close(manager: urllib3.PoolManager) -> None:
    """Closes idle connections; one that is in use is closed after its use."""
    pools: Any = manager.pools
    keys: set[Any] = pools.keys()  # `pools` is no dict, and can't be iterated over
    for key in keys:
        pool = pools.get(key)
        if pool is not None:
            pool.close()
    manager.clear()


def _is_json(response: urllib3.BaseHTTPResponse) -> bool:
    return "json" in response.headers.get("Content-Type", "json")


def _is_object(answer: Any, *, or_status: bool = False) -> bool:
    """Whether this has what every object of an API server has: a kind and metadata.

    `or_status`: a Status, which has no metadata, will do.

    https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/
    """
    if not isinstance(answer, dict):
        return False
    item = cast(dict[str, Any], answer)
    kind = item.get("kind")
    if or_status and kind == "Status":
        return True
    return isinstance(kind, str) and isinstance(item.get("metadata"), dict)


def _who_else(host: str, response: urllib3.BaseHTTPResponse, body: bytes = b"") -> str:
    """What to say about an answer that no API server gives."""
    kind = "other JSON" if _is_json(response) else response.headers.get("Content-Type", "no type")
    shown = body[:_SHOWN_BYTES].decode(errors="replace")
    return (
        f"{host} answers with {kind}, as no API server of Kubernetes does: is it the right "
        "address, and is there a proxy or a login page in between?"
        f"{f' It says: {shown}' if shown else ''}"
    )


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """For how many seconds the server wants no requests; None where it does not say so.

    Seconds, or a date by its own clock: https://www.rfc-editor.org/rfc/rfc9110#name-retry-after
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _MAX_RETRY_AFTER_S)
    until = _read_date(text)
    if until is None:
        return None
    now = _read_date(headers.get("Date", "")) or datetime.now(timezone.utc)
    return min(max(0.0, (until - now).total_seconds()), _MAX_RETRY_AFTER_S)


def _read_date(text: str) -> datetime | None:
    try:
        read = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return read if read.tzinfo is not None else read.replace(tzinfo=timezone.utc)


def _error(response: urllib3.BaseHTTPResponse, what: str, host: str) -> SchedulerError:
    """The exception for an answer that is an error. `what`: method and path of the request."""
    words: Any = None
    reason = ""
    try:
        body = response.data
    except (urllib3.exceptions.HTTPError, OSError) as exc:
        return Unreachable(f"{what}: {exc}")
    finally:
        response.release_conn()
    try:
        answer: dict[str, Any] = json.loads(body)
        words = answer["message"]
        reason = answer.get("reason") or ""
    except (ValueError, KeyError, TypeError, AttributeError):  # perhaps a proxy's answer
        pass
    if isinstance(words, str):
        message = words
    elif response.headers.get("Content-Type", "").startswith("text/plain"):
        message = body[:_SHOWN_BYTES].decode(errors="replace").strip()  # as of a busy server
    else:
        message = _who_else(host, response, body)
    if response.status == 401 or (response.status == 403 and '"system:anonymous"' in message):
        return CredentialsExpired(
            f"{what}: credentials expired ({message}). Log in again; the configuration is read "
            "anew."
        )
    # Somebody changed the same object (a quota, for example) at the same time: try again later.
    is_conflict = response.status == 409 and reason != "AlreadyExists"
    if response.status in _TRANSIENT_CODES or is_conflict:
        return Unreachable(f"{what}: {response.status} {message}")
    if response.status == 403:
        return Forbidden(403, message)
    if response.status == 410:
        return Gone(410, message)
    return ApiError(response.status, message)


def refused(error: ApiError) -> Refused:
    """The error as `Refused`, with a message for the user."""
    advice = ""
    if isinstance(error, Forbidden) and "cannot " in str(error):
        advice = " The README's section on Kubernetes has the Role that is needed."
    return Refused(f"Kubernetes says: {error}.{advice}")
