"""Cerbos, a policy sidecar in Go: fetched by npm at the version that is locked here, and asked over gRPC."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.benchmarks.load import BodyMaker
from tests.benchmarks.payloads import Scenario, WrongAnswer
from tests.benchmarks.processes import REPOSITORY, Server
from tests.benchmarks.stage import Target
from tests.servers.process import free_port

HERE = Path(__file__).resolve().parent
VERSION: str = json.loads((HERE / "package.json").read_text())["dependencies"]["cerbos"]
_FOLDER = REPOSITORY / ".tools/cerbos"
_SERVICE = "cerbos.svc.v1.CerbosService"
_METHOD = "CheckResources"
_FETCH_SECONDS = 300


class NoPeer(RuntimeError):
    """It can not be had on this machine."""


def program() -> Path:
    """The server's program itself, without npm's wrapper around it. Raises NoPeer."""
    if found := _fetched():
        return found
    npm = shutil.which("npm")
    if npm is None:
        raise NoPeer("there is no npm, which fetches it")
    _FOLDER.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, _FOLDER)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(_FOLDER)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_FETCH_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise NoPeer("npm does not come to an end") from error
    found = _fetched()
    if found is None:
        raise NoPeer(
            f"npm could not fetch it: {(done.stderr.strip() or 'no program for this machine')[-300:]}"
        )
    return found


def _fetched() -> Path | None:
    return next((_FOLDER / "node_modules/@cerbos").glob("cerbos-*/cerbos-*"), None)


@contextmanager
def serving(folder: Path, core: int) -> Iterator[Target]:
    """On one core, with what it is asked. Raises NoPeer; and WrongAnswer, asked by a real client first."""
    executable = program()
    policies = folder / "policies"
    policies.mkdir(parents=True)
    shutil.copy(HERE / "limits.yaml", policies)
    port, http_port = free_port(), free_port()
    settings = {
        "server": {"grpcListenAddr": f"127.0.0.1:{port}", "httpListenAddr": f"127.0.0.1:{http_port}"},
        "telemetry": {"disabled": True},
        "audit": {"enabled": False},
        "storage": {"driver": "disk", "disk": {"directory": str(policies), "watchForChanges": False}},
    }
    configuration = folder / "cerbos.json"
    configuration.write_text(json.dumps(settings))
    command: list[str | Path] = [executable, "server", f"--config={configuration}", "--log-level=ERROR"]
    server = Server("cerbos", core=core, log=folder / "cerbos.log", program=command)
    with server:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
            scenario = _scenario(channel)
        yield Target(server, port, scenario)


def _scenario(channel: grpc.Channel) -> Scenario:
    """Asks as a client of the service would: allowed within the limit, and not beyond."""
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    method = pool.FindServiceByName(_SERVICE).methods_by_name[_METHOD]
    request_class, answer_class = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    path = f"/{_SERVICE}/{_METHOD}"
    ask: Callable[[Message], Message] = channel.unary_unary(
        path,
        request_serializer=request_class.SerializeToString,
        response_deserializer=answer_class.FromString,
    )
    for used, effect in ((17, "EFFECT_ALLOW"), (60_000_000, "EFFECT_DENY")):
        answer = ask(json_format.ParseDict(_question("cus", used), request_class()))
        if _effect(answer) != effect:
            raise WrongAnswer(f"{used} used: {answer}")
    bodies = [
        json_format.ParseDict(_question(f"cus_bench_{number:02}", 17), request_class()).SerializeToString()
        for number in range(50)
    ]

    def make() -> BodyMaker:
        return lambda n: bodies[n % len(bodies)]

    def verify(answer: bytes) -> None:
        if _effect(answer_class.FromString(answer)) != "EFFECT_ALLOW":
            raise WrongAnswer("not allowed")

    return Scenario(f"Cerbos {VERSION}, CheckResources", path, make, verify)


def _question(customer_id: str, used: int) -> dict[str, object]:
    return {
        "requestId": "1",
        "principal": {"id": customer_id, "roles": ["customer"], "attr": {"used": used, "limit": 60_000_000}},
        "resources": [
            {"actions": ["use"], "resource": {"kind": "feature", "id": "chat", "attr": {"amount": 1_495}}}
        ],
    }


def _effect(answer: Message) -> str:
    effect: str = json_format.MessageToDict(answer)["results"][0]["actions"]["use"]
    return effect
