"""What playbooks do on the controller itself: in their own processes, without a module, and with its results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_lab import Cluster

PLAYBOOK = """\
- hosts: node1
  vars: {{mine: "{{{{ ansible_playbook_python }}}}"}}
  tasks:
    - block:
        - smolcluster_job: {{state: checked, node: node1, workdir: "{runs}", python: "{{{{ mine }}}}"}}
          register: here
        - smolcluster_boot: {{state: found, node: node1, workdir: "{runs}", python: "{{{{ mine }}}}"}}
          register: boot
        - smolcluster_job: {{state: started, node_file: "{runs}/no.yaml", python: "{{{{ mine }}}}"}}
          ignore_errors: true
          register: refused
        - smolcluster_job: {{state: begun, python: "{{{{ mine }}}}"}}
          ignore_errors: true
          register: unknown
        - smolcluster_job: {{state: checked, node: node1, workdir: "{runs}", python: /nowhere/python}}
          ignore_errors: true
          register: elsewhere
      vars: {{ansible_python_interpreter: /nowhere/python}}
    - smolcluster_job: {{state: checked, node: node1, workdir: "{runs}"}}
      register: module
    - smolcluster_command:
        argv: [runs, "~/{name}", --json]
        chdir: "{folder}"
      register: command
    - smolcluster_command: {{argv: [network, diff, --found, "-"], chdir: "{folder}", stdin: "no JSON"}}
      register: wrong
    - smolcluster_command: {{argv: [runs], chdir: "{folder}/nowhere"}}
      register: lost
    - smolcluster_command: {{argv: [runs, "."], chdir: "{folder}", within_s: 0.01}}
      register: slow
    - smolcluster_boot: {{state: forgotten, node: other, workdir: "{runs}", python: "{{{{ mine }}}}"}}
      check_mode: true
      register: looked
    - copy:
        content: >-
          {{{{ [here, boot, refused, unknown, elsewhere, module, command, wrong, lost, slow, looked] | to_json }}}}
        dest: "{folder}/outcome.json"
        mode: "0644"
"""


@pytest.mark.slow
def test_the_controllers_own_part_needs_no_module(local: Cluster) -> None:
    playbook = local.folder / "here.yml"
    playbook.write_text(PLAYBOOK.format(runs=local.runs, folder=local.folder, name=local.folder.name))
    note = local.runs / ".boot" / "other.json"
    note.parent.mkdir(parents=True)
    note.write_text("{}")
    played = local.play(str(playbook))
    assert played.code == 0, played.text
    here, boot, refused, unknown, elsewhere, module, command, wrong, lost, slow, looked = json.loads(
        (local.folder / "outcome.json").read_text()
    )
    # No module could have answered: there is no such interpreter.
    assert elsewhere["failed"], elsewhere
    assert (here["workdir"], here["jobs"]) == (str(local.runs), [])
    assert {key: here[key] for key in here} == {key: module[key] for key in here}
    assert boot["boot"] is None
    assert refused["failed"]
    assert f"{local.runs}/no.yaml" in refused["msg"]
    assert unknown["failed"]
    assert "state" in unknown["msg"]
    assert command["rc"] == 2
    assert f"{Path.home()}/{local.folder.name}: there is no such folder" in command["stderr"]
    assert command["msg"] == command["stderr"]
    assert (wrong["rc"], wrong["failed"]) == (2, False)
    assert "JSON" in wrong["stderr"]
    assert (lost["rc"], lost["stdout_lines"]) == (1, [])
    assert f"{local.folder}/nowhere: No such file or directory" in lost["stderr"]
    assert looked["skipped"], "nothing is done with --check"
    assert note.exists()
    assert (slow["rc"], slow["failed"]) == (1, False)
    assert "runs: it had not ended after 0.01 s, and was ended." in slow["stderr"]
