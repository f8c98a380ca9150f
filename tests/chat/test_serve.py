"""The sockets and the rank: ports, the key's file, a head over a real link, from starting to closed."""

import json
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from smolcluster.chat.backend.rank import read_key, run_api
from smolcluster.chat.backend.serve import bind, close, urls
from smolcluster.comm.announce import announce
from smolcluster.comm.opening import open_mesh
from smolcluster.comm.pulse import Pulse
from smolcluster.errors import ConfigError, PeerError
from smolcluster.infer.gate import Gate
from smolcluster.infer.group import group_of
from smolcluster.plan.types import ApiPlan, NodeConfig, RankPlan, ServePlan, StagePlan
from smolcluster.runtime.runfolder import RunFolder, ServingNote
from smolcluster.spec.modelfile import ServedModel
from smolcluster.spec.serving import ServeSpec, ServingStage
from tests.asked import Asked, asked_already
from tests.chat.conftest import KEY, PATIENCE_S
from tests.chat.fake_head import FakeHead


def test_two_ports_and_one(serve):
    bound = bind(("127.0.0.1",), {"api": 0, "page": 0})
    try:
        where = urls(bound)
        assert where["api"] != where["page"]
        assert all(url.startswith("http://127.0.0.1:") for url in where.values())
        port = bound["api"][0].getsockname()[1]
    finally:
        close(bound)
    bound = bind(("127.0.0.1", "127.0.0.2"), {"api": port, "page": port})
    try:
        assert bound["api"] is bound["page"]
        assert [opened.getsockname()[0] for opened in bound["api"]] == ["127.0.0.1", "127.0.0.2"]
    finally:
        close(bound)


@pytest.mark.parametrize(("name", "key"), [("api", "web_interface.api_port"), ("page", "web_interface.frontend_port")])
def test_a_port_that_is_taken_says_what_to_do(name, key):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as raised:
            bind(("127.0.0.1",), {"api": 0, "page": 0} | {name: port})
    [problem] = raised.value.problems
    assert problem.key == key
    assert f"port {port} is in use" in problem.what
    # It is read by people of both commands.
    assert f"-e override={key}={port + 1} of inference.yml" in problem.fix
    assert f"--override {key}={port + 1}" in problem.fix
    assert (f"--port {port + 1}" in problem.fix) == (name == "api")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_never_on_all_interfaces(host):
    with pytest.raises(PeerError, match="every interface"):
        bind((host,), {"api": 0, "page": 0})


def node(tmp_path: Path, **changes) -> NodeConfig:
    fields = {
        "run_id": "serving", "node": "local1", "generation": 0, "run_dir": str(tmp_path), "plan_file": "",
        "plan_digest": "", "secret_file": str(tmp_path / "secret"), "data_dir": "", "python": "python", "ranks": (2,),
    }  # fmt: skip
    return NodeConfig(**{**fields, **changes})


def test_the_key_s_file(tmp_path):
    local = ApiPlan(rank=1, listen=("127.0.0.1",), api_port=0, frontend_port=0)
    beyond = local.model_copy(update={"listen": ("127.0.0.1", "192.168.50.1")})
    file = tmp_path / "key"
    assert read_key(node(tmp_path), local) is None
    with pytest.raises(ConfigError, match="has no key"):
        read_key(node(tmp_path), beyond)
    config = node(tmp_path, api_key_file=str(file))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(config, beyond)
    for text in ("", "short", "two words that are long", "kéy" * 10):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError):
            read_key(config, beyond)
    file.write_text(f"{KEY}\n")
    for api in (local, beyond):
        key = read_key(config, api)
        assert key is not None
        assert key.get_secret_value() == KEY
        assert KEY not in repr(key)


MODEL = ServedModel(hf_model_name="owner/small", weights_model_name="small", num_layers=4)
STAGES = (ServingStage(node="local1", start=0, stop=4, port=0),)


def serve_plan(**api) -> ServePlan:
    """One stage and the API, on this machine."""
    ranks = tuple(
        RankPlan(
            rank=rank, node="local1", local_rank=rank, role=role, device="cpu", listen=listen, port=0,
            peers={1 - rank: "127.0.0.1"}, samples=0, buffer_mb=1.0, threads=1,
        )
        for rank, role, listen in ((0, "stage", ("127.0.0.1",)), (1, "api", ()))
    )  # fmt: skip
    fields = {"rank": 1, "listen": ("127.0.0.1",), "api_port": 0, "frontend_port": 0}
    return ServePlan(
        cluster="test",
        serve=ServeSpec(
            model_name="small",
            model=MODEL,
            stages=STAGES,
            api_port=0,
            frontend_port=0,
            request_timeout_s=12.5,
            seed=42,
            resume_s=7.5,
        ),
        layers=4,
        world_size=2,
        ranks=ranks,
        stages=(StagePlan(rank=0, start=0, stop=4, need_mb=1),),
        api=ApiPlan(**{**fields, **api}),
        params=1000,
    )


@contextmanager
def gate(config: NodeConfig, plan: ServePlan, head: FakeHead):
    """The head's rank, as far as the API sees it."""
    group = group_of(config, plan, plan.ranks[0])
    mesh = open_mesh(group)
    announce(group.endpoint_file, mesh.listener.endpoint, config.run_id, 0)
    pulse, door = Pulse(mesh.pulse, 0.5), Gate(head, mesh, 1)
    try:
        yield
    finally:
        door.close()
        pulse.close()
        mesh.listener.close()


def noted(file: Path, true) -> ServingNote:
    tries, note = threading.Event(), None
    for _ in range(1200):
        if file.exists():
            note = ServingNote.model_validate_json(file.read_text())
            if true(note):
                return note
        tries.wait(0.05)
    raise AssertionError(note)


def test_a_rank_from_starting_to_closed(tmp_path, head):
    """It answers before the head is there, serves over a real link, tells of its loss, and finds it again."""
    (tmp_path / "secret").write_text("a secret of the tests")
    (tmp_path / "key").write_text(KEY)
    plan = serve_plan()
    config = node(tmp_path, ranks=(0, 1), api_key_file=str(tmp_path / "key"))
    asked = Asked()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            run_api(config, plan, plan.ranks[1], asked)
        except BaseException as error:  # noqa: BLE001  the test sees it
            failures.append(error)

    rank = threading.Thread(target=run)
    rank.start()
    folder = RunFolder(tmp_path)
    file = folder.serving("local1", 1)
    headers = {"Authorization": f"Bearer {KEY}"}
    try:
        note = noted(file, lambda note: note.state == "starting")
        with httpx2.Client(base_url=note.urls["api"], headers=headers, timeout=PATIENCE_S) as client:
            answer = client.get("/health")
            assert (answer.status_code, answer.json()["state"]) == (503, "starting")
            assert client.post("/chat", json={"message": "hi"}).status_code == 503
            for turn in (1, 2):
                with gate(config, plan, head):
                    noted(file, lambda note: note.state == "ready")
                    assert client.post("/chat", json={"message": "hi"}).json()["text"] == "Hello!"
                    request = head.requests[-1]
                    assert request.deadline_s == 12.5
                    assert client.get("/config").json()["limits"]["resume_s"] == 7.5
                    assert [request.prompt[start:stop] for start, stop in request.literal] == ["hi"]
                note = noted(file, lambda note: note.state == "lost")
                assert "head" in note.reason
                assert client.get("/health").status_code == 503
                assert client.post("/chat", json={"message": "hi"}).status_code == 503
                assert note.requests >= turn
            assert httpx2.get(f"{note.urls['page']}/").status_code == 401
    finally:
        asked.set()
        rank.join(60)
    assert not rank.is_alive()
    assert failures == []
    assert noted(file, lambda note: True).state == "closed"
    lines = folder.requests("local1", 1).read_text().splitlines()
    assert [json.loads(line)["finish"] for line in lines].count("stop") == 2


def test_a_rank_that_cannot_begin_leaves_nothing(tmp_path):
    (tmp_path / "secret").write_text("a secret of the tests")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        plan = serve_plan(frontend_port=taken.getsockname()[1])
        with pytest.raises(ConfigError, match=r"web_interface\.frontend_port"):
            run_api(node(tmp_path, ranks=(0, 1)), plan, plan.ranks[1], asked_already())
    plan = serve_plan()
    with pytest.raises(ConfigError, match="secret"):
        run_api(node(tmp_path, ranks=(0, 1), secret_file=str(tmp_path / "none")), plan, plan.ranks[1], asked_already())
