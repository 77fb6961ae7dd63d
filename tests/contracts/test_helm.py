"""The charts lint, and render for every documented way of using them to what Kubernetes takes."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from control_plane.config import Settings as ControlPlane
from sidecar.config import Settings as Sidecar
from tests.contracts import helm_tools

CHARTS = helm_tools.REPOSITORY / "helm"
EXAMPLES = sorted(CHARTS.glob("examples/values-*.yaml"))
APP_EXAMPLES = sorted(CHARTS.glob("examples/app/values-*.yaml"))
WAYS = [("purser", None), *(("purser", path) for path in EXAMPLES)]
WAYS += [("examples/app", None), *(("examples/app", path) for path in APP_EXAMPLES)]

# A kind of an operator's, for which the validator has no schema.
UNKNOWN_KINDS = {"ServiceMonitor"}


def way(chart: str, values: Path | None) -> str:
    return f"{chart}-{values.stem}" if values else f"{chart}-defaults"


class Charts:
    """A copy of helm/ with the library built into the example."""

    def __init__(self, folder: Path) -> None:
        self.program = helm_tools.helm()
        self.folder = folder / "helm"
        shutil.copytree(CHARTS, self.folder, ignore=shutil.ignore_patterns("charts", "Chart.lock"))
        self.run("dependency", "build", "examples/app")

    def run(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        home = {name: str(self.folder.parent / name) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME")}
        done = subprocess.run(
            [self.program, *arguments],
            cwd=self.folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder.parent), **home},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done

    def render(self, chart: str, values: Path | None, *settings: str) -> list[dict[str, Any]]:
        text = self.template(chart, values, *settings).stdout
        return [document for document in yaml.safe_load_all(text) if document]

    def template(
        self, chart: str, values: Path | None, *settings: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        arguments = ["template", "release", chart, *(["--values", str(values)] if values else [])]
        for setting in settings:
            arguments += ["--set", setting]
        return self.run(*arguments, check=check)


@pytest.fixture(scope="module")
def charts(tmp_path_factory: pytest.TempPathFactory) -> Charts:
    """Fetches helm where it is missing; fails, and says what to install, where that does not work."""
    return Charts(tmp_path_factory.mktemp("charts"))


@pytest.mark.parametrize(("chart", "values"), WAYS, ids=[way(*each) for each in WAYS])
def test_lints(charts: Charts, chart: str, values: Path | None) -> None:
    """`helm lint --strict` has nothing to say, for the defaults and for each example."""
    charts.run("lint", "--strict", chart, *(("--values", values) if values else ()))


def test_the_library_lints(charts: Charts) -> None:
    """`helm lint --strict` on the library by itself."""
    charts.run("lint", "--strict", "purser-sidecar")


def test_manifests_are_valid(charts: Charts, tmp_path: Path) -> None:
    """What is rendered has the shape that Kubernetes asks for, with no field that it does not know."""
    files = []
    for chart, values in WAYS:
        files.append(tmp_path / f"{way(chart, values).replace('/', '-')}.yaml")
        known = [each for each in charts.render(chart, values) if each["kind"] not in UNKNOWN_KINDS]
        assert known
        files[-1].write_text(yaml.safe_dump_all(known))
    done = subprocess.run(
        [helm_tools.validator(), "--strict", *files], capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "WARN" not in said, said
    assert said.count(" passed ") >= len(files), said


@pytest.mark.parametrize(("chart", "values"), WAYS, ids=[way(*each) for each in WAYS])
def test_every_container_is_confined(charts: Charts, chart: str, values: Path | None) -> None:
    """No container runs as root, writes to its root file system, gains privileges, or lacks requests and limits."""
    seen = 0
    for manifest in charts.render(chart, values):
        if manifest["kind"] not in {"Deployment", "StatefulSet", "Job"}:
            continue
        pod = manifest["spec"]["template"]["spec"]
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            if container["name"] == "app":
                continue
            seen += 1
            security = {**pod.get("securityContext", {}), **container["securityContext"]}
            assert security["runAsNonRoot"] is True
            assert security["runAsUser"] > 0
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            assert any(mount["mountPath"] == "/tmp" for mount in container["volumeMounts"])
    assert seen


@pytest.mark.parametrize(("chart", "values"), WAYS, ids=[way(*each) for each in WAYS])
def test_every_variable_is_a_setting(charts: Charts, chart: str, values: Path | None) -> None:
    """What is set as `PURSER_…` is a setting of the process that gets it."""
    known: dict[str, type[BaseSettings]] = {
        "control-plane": ControlPlane,
        "migrate": ControlPlane,
        "purser": Sidecar,
    }
    seen = 0
    for manifest in charts.render(chart, values):
        pod = manifest["spec"]["template"]["spec"] if "template" in manifest.get("spec", {}) else {}
        for container in (*pod.get("initContainers", ()), *pod.get("containers", ())):
            settings = known.get(container["name"])
            names = {each["name"] for each in container["env"] if each["name"].startswith("PURSER_")}
            if settings is not None:
                fields = {f"PURSER_{name.upper()}" for name in settings.model_fields}
                assert names <= fields | {"PURSER_CONFIG"}
                seen += len(names)
    assert seen


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("replica=2", "replica"),
        ("database.existingSecret=", "existingSecret"),
        ("tls.existingSecret=", "existingSecret"),
        ("sidecarToken.existingSecret=", "sidecarToken.existingSecret"),
        ("tls.verifyClients=yes", "verifyClients"),
        ("serviceAccount.create=false", "name"),
        ("serviceMonitor.enabled=true,adminToken.existingSecret=", "serviceMonitor"),
    ],
)
def test_wrong_values_are_refused(charts: Charts, setting: str, complaint: str) -> None:
    """A typing error, or values that do not go together, fail with the value's name, before anything is installed."""
    done = charts.template("purser", None, setting, check=False)
    assert done.returncode != 0
    assert complaint in done.stderr


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("purser.controlPlane=", "controlPlane is missing"),
        ("purser.durabilty=remote", "durabilty is no value"),
        ("purser.durability=best", "power_loss, process_crash or remote"),
    ],
)
def test_wrong_sidecar_values_are_refused(charts: Charts, setting: str, complaint: str) -> None:
    """The same for the library, which can have no schema of its own."""
    done = charts.template("examples/app", None, setting, check=False)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_the_outbox_outlives_a_pod_when_asked(charts: Charts) -> None:
    """`stateful` and `outbox.persistent` give each pod a claim; without, the outbox is an emptyDir."""
    (stateful,) = charts.render("examples/app", CHARTS / "examples/app/values-stateful.yaml")
    claims = [claim["metadata"]["name"] for claim in stateful["spec"]["volumeClaimTemplates"]]
    volumes = [volume["name"] for volume in stateful["spec"]["template"]["spec"]["volumes"]]
    assert (claims, "purser-outbox" in volumes) == (["purser-outbox"], False)
    (deployment,) = charts.render("examples/app", None)
    assert "purser-outbox" in [v["name"] for v in deployment["spec"]["template"]["spec"]["volumes"]]


def test_the_schema_knows_every_value() -> None:
    """The schema knows exactly the values that values.yaml has, and the file says what they are."""
    text = (CHARTS / "purser/values.yaml").read_text()
    schema = yaml.safe_load((CHARTS / "purser/values.schema.json").read_text())
    values = yaml.safe_load(text)
    assert values.keys() | {"global"} == schema["properties"].keys()
    for name, value in values.items():
        if isinstance(value, dict) and "properties" in schema["properties"][name]:
            assert value.keys() == schema["properties"][name]["properties"].keys(), name
