"""A model served with `encrypt: always` over loopback: the same text, and a stage that comes back is let in again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import psutil
import pytest

from smolcluster.jobs.identity import alive
from smolcluster.jobs.registry import Registry
from tests.certs.cluster import Certified
from tests.infer.infer_models import generate, save, small_tokenizer
from tests.infer.test_serve_command import PROMPT, ROOT, Served, health, post


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_model_is_served_over_encrypted_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inventory").mkdir()
    shutil.copy(ROOT / "inventory" / "local.smol.yml", tmp_path / "inventory")
    home = Certified(tmp_path / "home" / ".smolcluster")
    (home.path / "certs").mkdir(parents=True)
    for node in ("node1", "node2", "node3"):
        home.add(node)
        shutil.move(home.node(node).path, home.path / "certs" / node)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    tokenizer = small_tokenizer()
    model, folder = save("llama", tmp_path / "tiny")
    tokenizer.save(str(folder / "tokenizer.json"))
    right = generate(model, tokenizer.encode(PROMPT, add_special_tokens=False).ids, 12)
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 12, "temperature": 0}

    served = Served(tmp_path, "--model", "tiny", "--port", "0", "--override", "encrypt=always")
    try:
        url = served.url("api")
        served.remember()
        run = tmp_path / "runs" / "latest"
        plan = json.loads((run / "plan.json").read_text())
        assert all(rank["encrypt"] and all(rank["encrypt"].values()) for rank in plan["ranks"])
        # Nobody else can dial this machine's loopback, so a browser needs no certificate there.
        assert (plan["api"]["tls"], url[:5]) == (False, "http:")

        def answer() -> str:
            status, said = post(f"{url}/v1/completions", asked)
            assert status == 200, said
            return said["choices"][0]["text"]

        assert answer() == tokenizer.decode(right, skip_special_tokens=False)
        stage = Registry.of_run(run, "node2").active()
        assert stage is not None
        psutil.Process(stage.ranks[1].pid).kill()
        served.until(lambda: health(url)["state"] != "ready" or health(url)["epoch"] > 1, "the loss is told")
        served.until(lambda: health(url)["state"] == "ready" and health(url)["epoch"] > 1, "it is ready again")
        assert answer() == tokenizer.decode(right, skip_special_tokens=False)
        served.remember()
        assert served.finish() == 130, served.text
        assert not any(alive(who) for who in served.seen)
    finally:
        served.clean()
