"""Posting to real receivers on this machine, over HTTP and TLS."""

import socket
import ssl
import subprocess
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network

import pytest

from taskmanager.notify.addresses import AddressRefused
from taskmanager.notify.sending import MAX_ANSWER_BYTES, NotSent, Rules, post
from tests.support.receivers import serving

LOOPBACK = [ip_network("127.0.0.1/32")]


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append((self.path, self.headers["host"], body))
        self.send_response(302 if self.path == "/moved" else 200)
        if self.path == "/moved":
            self.send_header("location", f"http://127.0.0.1:{self.server.server_port}/secret")
        self.end_headers()
        self.wfile.write(b"x" * (MAX_ANSWER_BYTES * 2 if self.path == "/large" else 2))

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *_):
        """The client may go away in the middle of an answer."""


@pytest.fixture
def receiver():
    server = Server(("127.0.0.1", 0), Receiver)
    server.received = []
    with serving(server):
        yield server


def rules(*, context=None, resolver=lambda _: ["127.0.0.1"]):
    return Rules(
        is_http_allowed=True, allowed_networks=LOOPBACK, resolver=resolver, context=context
    )


def url(receiver, path="/", scheme="http", host="hook.test"):
    return f"{scheme}://{host}:{receiver.server_port}{path}"


def test_message_arrives_under_the_name_of_its_host(receiver):
    answer = post(url(receiver, "/a?b=1"), b"{}", {"x-a": "1"}, rules=rules())
    assert answer == (200, b"xx")
    assert receiver.received == [("/a?b=1", f"hook.test:{receiver.server_port}", b"{}")]


def test_redirect_is_not_followed(receiver):
    assert post(url(receiver, "/moved"), b"{}", {}, rules=rules()).status == 302
    assert [path for path, _, _ in receiver.received] == ["/moved"]


def test_large_answer_is_cut(receiver):
    answer = post(url(receiver, "/large"), b"{}", {}, rules=rules())
    assert len(answer.body) == MAX_ANSWER_BYTES


def test_proxy_of_the_environment_is_not_used(receiver, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert post(url(receiver), b"{}", {}, rules=rules()).status == 200


@pytest.mark.parametrize(
    "wanted", ["http://hook.test/", "ftp://hook.test/", "https://", "file:///a"]
)
def test_anything_but_https_to_a_host_is_refused_by_default(wanted):
    with pytest.raises(AddressRefused):
        post(wanted, b"{}", {}, rules=Rules(resolver=lambda _: ["8.8.8.8"]))


@pytest.mark.parametrize(("is_http_allowed", "named"), [(False, "https"), (True, "https and http")])
def test_what_is_allowed_is_said_of_another_kind_of_address(is_http_allowed, named):
    with pytest.raises(AddressRefused, match=f"Only {named} addresses are allowed"):
        post("ftp://hook.test/", b"{}", {}, rules=Rules(is_http_allowed=is_http_allowed))


def test_password_in_the_address_is_refused(receiver):
    with pytest.raises(AddressRefused):
        post(f"http://u:p@hook.test:{receiver.server_port}/", b"{}", {}, rules=rules())


def test_name_is_resolved_once_so_that_a_changed_answer_is_never_used(receiver):
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    changing = rules(resolver=lambda _: next(answers))
    assert post(url(receiver), b"{}", {}, rules=changing).status == 200
    with pytest.raises(AddressRefused):
        post(url(receiver), b"{}", {}, rules=changing)
    assert len(receiver.received) == 1


@pytest.mark.parametrize("drip", [b"H", b"HTTP/1.1 200 OK\r\n\r\nx"])
def test_receiver_that_sends_a_byte_at_a_time_is_cut_off(drip):
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def answer_slowly():
            peer, _ = listening.accept()
            with peer:
                try:
                    peer.sendall(drip)
                    while not ended.wait(0.02):
                        peer.sendall(b"x")
                except OSError:
                    pass

        ended = threading.Event()
        thread = threading.Thread(target=answer_slowly)
        thread.start()
        port = listening.getsockname()[1]
        try:
            with pytest.raises(NotSent):
                post(f"http://hook.test:{port}/", b"{}", {}, rules=rules(), seconds=0.3)
        finally:
            ended.set()
            thread.join()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=hook.test",
            "-addext",
            "subjectAltName=DNS:hook.test",
            "-keyout",
            folder / "key.pem",
            "-out",
            folder / "cert.pem",
        ],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture
def tls_receiver(receiver, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    receiver.socket = context.wrap_socket(
        receiver.socket, server_side=True, do_handshake_on_connect=False
    )
    return receiver


def test_certificate_is_verified_for_the_name_and_not_for_the_address(tls_receiver, certificate):
    trusted = rules(context=ssl.create_default_context(cafile=certificate / "cert.pem"))
    assert post(url(tls_receiver, scheme="https"), b"{}", {}, rules=trusted).status == 200
    with pytest.raises(NotSent):
        post(url(tls_receiver, scheme="https", host="other.test"), b"{}", {}, rules=trusted)
    with pytest.raises(NotSent):
        post(url(tls_receiver, scheme="https"), b"{}", {}, rules=rules())
    assert len(tls_receiver.received) == 1
