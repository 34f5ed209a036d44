"""The files of cluster/ that need a cloud, Docker or Kubernetes: checked as far as that goes without them.

Ray's launcher validates its own YAML; the manifests are held against the fields and types of KubeRay's API, written
down in kuberay_v1.yaml; and whatever a file names (a command, an image, a secret, a volume, a server) must exist.
"""

import configparser
import copy
import re
import shlex
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml

from cluster import mlflow_server
from jobs.command import find_spec
from jobs.tracking import tracking_uri
from salcore.errors import UserError
from salcore.storage import Store

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "cluster"
MANIFESTS = ("shared", "cluster", "job")
SCHEMA = yaml.safe_load(Path(__file__).with_name("kuberay_v1.yaml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGE = f"salcore:{PROJECT['version']}"
PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)


def manifest(name):
    return list(yaml.safe_load_all((FOLDER / "kuberay" / f"{name}.yaml").read_text()))


def only(name):
    (document,) = manifest(name)
    return document


def launcher():
    return yaml.safe_load((FOLDER / "ray_up.yaml").read_text())


def pods(node):
    """Every pod's spec, wherever in a manifest."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from pods(each)


def containers():
    return [container for name in MANIFESTS for pod in pods(manifest(name)) for container in pod["containers"]]


def commands(file):
    """The lines at the head of a file that one types, continued ones joined."""
    comment = "\n".join(line.removeprefix("#") for line in file.read_text().splitlines() if line.startswith("#"))
    return [line.strip() for line in comment.replace("\\\n", " ").splitlines() if line.startswith("   ")]


# Ray's own launcher


def test_ray_accepts_the_launchers_file():
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(launcher())
    validate_config(prepared)
    assert prepared["available_node_types"]["worker"]["max_workers"] == prepared["max_workers"] == 8
    assert prepared["setup_commands"] == []  # nothing of Ray's defaults, which would install another Ray
    for key, wrong in (("max_worker", 8), ("idle_timeout_minutes", "five"), ("head_node_type", "nobody")):
        with pytest.raises((ValueError, jsonschema.ValidationError)):
            validate_config(prepare_config({**launcher(), key: wrong}))


def test_the_launched_head_holds_no_work_and_every_node_asks_for_the_token():
    config = launcher()
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}
    assert config["available_node_types"]["worker"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    for role in ("head", "worker"):
        (start,) = (line for line in config[f"{role}_start_ray_commands"] if "ray start" in line)
        assert "RAY_AUTH_MODE=token ray start" in start
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert config["docker"]["image"] == IMAGE


# KubeRay


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_have_the_fields_and_types_of_the_api(name):
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for document in manifest(name):
        jsonschema.validate(document, {"$ref": f"#/$defs/{document['kind']}", "$defs": SCHEMA["$defs"]})
        assert validator.is_valid(document)


def test_the_schema_can_refuse():
    def refused(change):
        job = copy.deepcopy(only("job"))
        change(job["spec"])
        return not jsonschema.Draft202012Validator(SCHEMA).is_valid(job)

    assert not refused(lambda spec: None)
    assert refused(lambda spec: spec.update(backofLimit=3))
    assert refused(lambda spec: spec.update(backoffLimit="3"))
    assert refused(lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}))
    assert refused(lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].pop("maxReplicas"))
    assert refused(lambda spec: spec["rayClusterSpec"]["autoscalerOptions"].update(version=2))


def test_the_job_runs_on_the_cluster_that_cluster_yaml_describes():
    assert only("job")["spec"]["rayClusterSpec"] == only("cluster")["spec"]


def test_the_head_holds_no_work_and_gpu_workers_come_as_spot_nodes_when_slots_wait_for_them():
    spec = only("cluster")["spec"]
    head, (workers,) = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert spec["rayVersion"] == PINNED["ray"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert {pod["restartPolicy"] for pod in pods(spec)} == {"Never"}
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert workers["minReplicas"] == workers["replicas"] == 0 < workers["maxReplicas"]
    (worker,) = workers["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    tolerated = {toleration["key"] for toleration in workers["template"]["spec"]["tolerations"]}
    assert {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority", "nvidia.com/gpu"} == tolerated


def test_the_job_begins_anew_where_its_cluster_is_lost():
    spec = only("job")["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True


def test_images_are_what_the_dockerfile_makes():
    images = {container["image"] for container in containers()}
    assert images == {IMAGE, "postgres:17"}
    assert f"docker build -f cluster/Dockerfile -t {IMAGE} ." in (FOLDER / "Dockerfile").read_text()


def test_containers_ask_for_as_much_memory_as_they_may_have_where_ray_runs():
    for pod in pods(only("cluster")):
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]


# What the files name


def entry_points():
    """Every command for `jobs` that a file names, with where its images have the volume of runs."""
    yield only("job")["spec"]["entrypoint"], {"/shared"}
    for file, places in ((FOLDER / "kuberay" / "cluster.yaml", {"/shared"}), (FOLDER / "ray_up.yaml", {"s3://BUCKET"})):
        (line,) = (line for line in commands(file) if "ray job submit" in line)
        yield line.partition(" -- ")[2], places


@pytest.mark.parametrize(("command", "places"), list(entry_points()))
def test_entry_points_are_commands_that_the_repository_has(command, places, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    python, flag, module, name, option, directory, *overrides = shlex.split(command)
    assert (python, flag, option) == ("python", "-m", "--run-dir")
    assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()
    spec, _ = find_spec(name, overrides)  # raises for a spec or a key that does not exist
    assert any(directory.startswith(f"{place}/") for place in places)
    if spec.tracking.uri:
        assert tracking_uri(spec, Store(directory)) == spec.tracking.uri
    groups = only("cluster")["spec"]["workerGroupSpecs"]
    assert spec.cluster.slots == sum(group["maxReplicas"] for group in groups)  # a slot takes a GPU
    assert spec.cluster.gpus_per_slot == 1


def test_a_wrong_entry_point_would_be_found():
    for wrong in (["digitz"], ["digits", "cluster.slot=8"], ["digits", "cluster.slots=many"]):
        with pytest.raises(UserError):
            find_spec(wrong[0], wrong[1:])


def test_jobs_reach_the_mlflow_server_by_a_name_that_it_allows():
    (service,) = (each for each in manifest("shared") if each["metadata"]["name"] == "salcore-mlflow"
                  and each["kind"] == "Service")  # fmt: skip
    (server,) = (each for each in containers() if each["name"] == "mlflow")
    spec, _ = find_spec(
        "digits", [part for part in shlex.split(only("job")["spec"]["entrypoint"]) if "tracking" in part]
    )
    address = urlsplit(spec.tracking.uri)
    assert (address.hostname, address.port) == (service["metadata"]["name"], service["spec"]["ports"][0]["port"])
    given = dict(zip(server["args"][::2], server["args"][1::2], strict=True))
    assert int(given["--port"]) == address.port == server["ports"][0]["containerPort"]
    hosts = given["--allowed-hosts"].split(",")
    mlflow_server.check_hosts(given["--host"], hosts)
    line = mlflow_server.command(given["--artifacts"], given["--host"], address.port, hosts, login=True)
    assert address.netloc in line[line.index("--allowed-hosts") + 1].split(",")
    assert line[line.index("--app-name") + 1] == "basic-auth"


def test_the_mlflow_server_finds_its_database_and_its_login():
    server, database = ({item["name"]: item for item in each["env"]} for name in ("mlflow", "postgres")
                        for each in containers() if each["name"] == name)  # fmt: skip
    assert server["PGUSER"]["value"] == database["POSTGRES_USER"]["value"]
    assert server["PGDATABASE"]["value"] == database["POSTGRES_DB"]["value"]
    assert server["PGPASSWORD"]["valueFrom"] == database["POSTGRES_PASSWORD"]["valueFrom"]
    assert server["PGHOST"]["value"] in {each["metadata"]["name"] for each in manifest("shared")}
    given = dict.fromkeys(server, "long enough for it")
    assert mlflow_server.login(given, wanted=True)["MLFLOW_AUTH_ADMIN_USERNAME"]
    head = only("cluster")["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert {item["name"] for item in head["env"]} == {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}


def test_secrets_volumes_and_pods_that_manifests_name_exist():
    (make,) = (line for line in commands(FOLDER / "kuberay" / "shared.yaml") if "create secret" in line)
    secret, keys = shlex.split(make)[4], set(re.findall(r"--from-literal=(\w+)=", make))
    claims = {each["metadata"]["name"] for each in manifest("shared") if each["kind"] == "PersistentVolumeClaim"}
    own = {each["metadata"]["name"] for document in manifest("shared") for each in
           document["spec"].get("volumeClaimTemplates", ())}  # fmt: skip
    for name in MANIFESTS:
        for pod in pods(manifest(name)):
            volumes = {each["name"]: each["persistentVolumeClaim"]["claimName"] for each in pod.get("volumes", ())}
            assert set(volumes.values()) <= claims
            for container in pod["containers"]:
                assert {mount["name"] for mount in container.get("volumeMounts", ())} <= {*volumes, *own}
                references = [
                    item["valueFrom"]["secretKeyRef"] for item in container.get("env", ()) if "value" not in item
                ]
                assert {(each["name"], each["key"]) for each in references} <= {(secret, key) for key in keys}
    labels = [
        each["spec"]["template"]["metadata"]["labels"] for each in manifest("shared") if "template" in each["spec"]
    ]
    for service in (each for each in manifest("shared") if each["kind"] == "Service"):
        assert service["spec"]["selector"] in labels


@pytest.mark.parametrize(
    "file", [*FOLDER.glob("**/*.yaml"), FOLDER / "Dockerfile", FOLDER / "mlflow_auth.ini"], ids=str
)
def test_no_file_holds_a_secret(file):
    value = re.compile(r"(password|token|secret|key)\w*\s*[:=]\s*['\"]?(?P<value>[^\s'\"{}$,)]{6,})", re.IGNORECASE)
    found = {match["value"] for match in value.finditer(file.read_text())}
    assert found <= {"~/.ray/auth_token", "cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority",
                     "nvidia.com/gpu", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD",
                     "salcore-ray"}, found  # fmt: skip


# The image


def test_the_image_is_built_from_files_that_exist_with_the_versions_of_constraints():
    text = (FOLDER / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists(), source
    version = re.search(r"^FROM python:(3\.\d+)-slim$", text, re.MULTILINE)[1]
    assert f"python{version}" in (ROOT / "Makefile").read_text()
    assert '--constraint constraints.txt ".[server]"' in text
    assert "server" in PROJECT["optional-dependencies"]
    assert "RAY_AUTH_MODE=token" in text
    user = int(re.search(r"useradd .*--uid (\d+)", text)[1])
    for pod in pods([*manifest("shared"), *manifest("cluster")]):
        if pod["containers"][0]["image"] == IMAGE:
            assert pod["securityContext"] == {"runAsUser": user, "fsGroup": user}


def test_what_the_servers_extra_needs_is_pinned_and_shipped():
    assert {"psycopg", "psycopg-binary", "Flask-WTF", "WTForms"} <= set(PINNED)
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["cluster"]
    assert any(mlflow_server.LOGIN.match(pattern) for pattern in packaged)


# The MLflow server's command


def test_the_login_lies_in_the_database_of_the_runs():
    config = configparser.ConfigParser()
    config.read(mlflow_server.LOGIN)
    assert config["mlflow"]["database_uri"] == mlflow_server.DATABASE
    assert "admin_password" not in config["mlflow"]


def test_a_server_asks_for_a_login_unless_told_not_to_and_listens_here_unless_told_where_else():
    asks = mlflow_server.command("/artifacts", "127.0.0.1", 5000, (), login=True)
    open_to_all = mlflow_server.command("/artifacts", "127.0.0.1", 5000, (), login=False)
    assert asks == [*open_to_all, "--app-name", "basic-auth"]
    assert asks[asks.index("--allowed-hosts") + 1] == "localhost,localhost:*,127.0.0.1,127.0.0.1:*"
    assert "--cors-allowed-origins" not in asks


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ([], {}, "export MLFLOW_TRACKING_USERNAME=admin"),
        ([], {"MLFLOW_TRACKING_USERNAME": "me"}, "export MLFLOW_TRACKING_PASSWORD=$(openssl rand -hex 16)"),
        ([], {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "short"}, "12 characters or more"),
        (["--host", "0.0.0.0"], {}, "--allowed-hosts: expected the names"),
        (["--host", "0.0.0.0", "--without-login"], {}, "--allowed-hosts: expected the names"),
        (["--allowed-hosts", "*"], {}, "not every name"),
    ],
)
def test_a_server_that_would_be_open_or_answer_nobody_does_not_start(
    arguments, environment, message, monkeypatch, capsys
):
    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.execve", lambda *_: pytest.fail("it started"))
    with pytest.raises(SystemExit) as exit:
        mlflow_server.server(["--artifacts", "/artifacts", *arguments])
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
