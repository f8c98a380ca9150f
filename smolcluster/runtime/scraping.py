"""What Prometheus needs to look at a run: prometheus/ in its folder, written where the plan has a `metrics_port`.

    prometheus.yml    prometheus --config.file=runs/latest/prometheus/prometheus.yml
    targets.json      the nodes' addresses, for file_sd_configs; and api.json, that of a served model's API
    key               what nodes want to hear beyond loopback

`runs/latest` leads to the newest run, and Prometheus looks into targets.json and key again and again: it need not be
started anew for each run.
"""

from __future__ import annotations

import hashlib
import hmac
import json

import yaml

from smolcluster.certs.places import authority_folder
from smolcluster.plan.exporters import exporters_of
from smolcluster.plan.types import Plan, ServePlan, plan_of
from smolcluster.runtime.runfolder import RunFolder, write_atomic
from smolcluster.spec.values import is_loopback

SCRAPE_EVERY_S = 10
_PURPOSE = b"smolcluster metrics"


def metrics_key(secret: bytes) -> str:
    """What a run's exporters want to hear. It follows from the run's secret, and does not lead back to it."""
    return hmac.new(secret.strip(), _PURPOSE, hashlib.sha256).hexdigest()


def write_scraping(folder: RunFolder, plan: Plan | ServePlan) -> bool:
    """Write the folder; whether there is anything to look at. The run's secret is there already. OSError."""
    exporters = exporters_of(plan)
    if not exporters:
        return False
    place = folder.prometheus
    place.mkdir(parents=True, exist_ok=True)
    run_id = folder.path.name
    targets = [
        {"targets": [_target(each.addresses[0], each.port)], "labels": {"run": run_id, "node": each.node}}
        for each in exporters
    ]
    config = {
        "global": {"scrape_interval": f"{SCRAPE_EVERY_S}s", "scrape_timeout": f"{SCRAPE_EVERY_S // 2}s"},
        "scrape_configs": [
            {
                "job_name": "smolcluster",
                "honor_labels": True,
                "authorization": {"credentials_file": "key"},
                "file_sd_configs": [{"files": ["targets.json"], "refresh_interval": f"{SCRAPE_EVERY_S}s"}],
            }
        ],
    }
    if isinstance(plan, ServePlan) and plan.api.api_port:
        config["scrape_configs"].append(_of_api(folder, plan))  # type: ignore[attr-defined]
        write_atomic(place / "api.json", _json([_api_targets(plan, run_id)]))
    write_atomic(place / "key", metrics_key((folder.path / "secret").read_bytes()), mode=0o600)
    write_atomic(place / "targets.json", _json(targets))
    write_atomic(place / "prometheus.yml", yaml.safe_dump(config, sort_keys=False))
    return True


def write_scraping_of(folder: RunFolder, plan_json: str) -> bool:
    """The same for a plan's text. ValueError if it is none."""
    return write_scraping(folder, plan_of(plan_json))


def _of_api(folder: RunFolder, plan: ServePlan) -> dict[str, object]:
    """The served model's API, which asks beyond loopback for the key of its users."""
    job: dict[str, object] = {
        "job_name": "smolcluster-api",
        "honor_labels": True,
        "file_sd_configs": [{"files": ["api.json"], "refresh_interval": f"{SCRAPE_EVERY_S}s"}],
    }
    if plan.api.asks_for_key:
        job["authorization"] = {"credentials_file": "../api_key"}
    if plan.api.tls:
        job |= {"scheme": "https", "tls_config": {"ca_file": str(authority_folder().certificate)}}
    return job


def _api_targets(plan: ServePlan, run_id: str) -> dict[str, object]:
    beyond = [address for address in plan.api.listen if not is_loopback(address)]
    node = next(rank.node for rank in plan.ranks if rank.rank == plan.api.rank)
    target = _target((beyond or list(plan.api.listen))[0], plan.api.api_port)
    return {"targets": [target], "labels": {"run": run_id, "node": node}}


def _target(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
