"""Which machines take part in what, if nothing else is asked for: the inventory plugin's groups."""

from __future__ import annotations

from pathlib import Path

from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.clusterfile import CLUSTER_FILES
from smolcluster.spec.document import read_document
from smolcluster.spec.participants import can_train, taking_part
from smolcluster.spec.recognise import recognise
from smolcluster.spec.request import Request
from smolcluster.spec.settings import gather
from smolcluster.spec.stages import serves_by_itself, stages_of

_STARS = ("edp", "syncps")
_LONE = ("single", "classicdp", "fsdp", "diloco")


def strategies_of(cluster: ClusterSpec, inventory: Path) -> dict[str, tuple[str, ...]]:
    """Group name -> machines in rank order. Stars have two groups, `edp_server` and `edp_workers`.

    A strategy that needs more machines than there are has no group. Of a cluster YAML alone only its own strategy has.
    ConfigError when the inventory's defaults or the YAMLs beside it are wrong.
    """
    document = read_document(inventory)
    kind = recognise(document.data)
    groups: dict[str, tuple[str, ...]] = {}
    problems: list[Problem] = []
    for strategy in [kind] if kind in CLUSTER_FILES else CLUSTER_FILES:
        able = serves_by_itself if strategy == "inference" else can_train
        capable = [node for node in cluster.nodes if able(node)]
        if len(capable) < (1 if strategy in (*_LONE, "inference") else 2):
            continue
        settings, wrong = gather(Request(inventory, strategy), document)
        problems += wrong
        if settings is None:
            continue
        if strategy == "inference":
            serving = stages_of(settings, cluster)
            problems += serving.problems
            nodes = [stage.node for stage in serving.stages]
            groups |= {"inference_server": tuple(nodes[:1]), "inference_stages": tuple(nodes)}
            continue
        found = taking_part(settings.cluster, settings.cluster_from, cluster, strategy)
        problems += found.problems
        names = [participant.node for participant in found.participants]
        if strategy in _STARS:
            groups |= {f"{strategy}_server": tuple(names[:1]), f"{strategy}_workers": tuple(names[1:])}
        else:
            groups[strategy] = tuple(names)
    if problems:
        raise ConfigError(problems)
    return groups
