"""edp's algorithm, its server in this thread, its workers played by hand or by threads: what is applied at what rate,
what is refused, and that nothing is lost in rounding.
"""

from __future__ import annotations

import gc
import threading
from contextlib import ExitStack

import pytest
import torch
from star_players import LR, WAIT_S, Hand, Star, group, started, steps
from strategy_models import samples_of

from smolcluster.comm.letter import Letter
from smolcluster.errors import RunOverError
from smolcluster.strategies.base import NotFiniteError
from smolcluster.strategies.edp import TOO_STALE, damping
from smolcluster.strategies.star.ledger import ROLLED_BACK
from smolcluster.strategies.star.messages import Op, leases_in
from smolcluster.strategies.star.server import DUPLICATE, NOT_LEASED


@pytest.fixture
def stack():
    with ExitStack() as opened:
        yield opened


def test_damping_counts_what_is_beyond_one_update_of_every_other():
    assert damping(staleness=0, active=1) == 1
    assert [damping(s, active=3) for s in range(5)] == [1, 1, 1, 2, 3]


def test_a_gradient_is_applied_as_adamw_would_and_answered(stack, tmp_path):
    star = Star(tmp_path, stack)
    one = star.by_hand(1, 11)
    assert one.welcome.say("weights", str) == "full"
    assert [(lease.start, lease.count) for lease in one.leases] == [(0, 4), (4, 4)]
    expected = star.server.centre.flat.params.clone().requires_grad_()
    optimizer = torch.optim.AdamW([expected], lr=LR, weight_decay=0.01)
    generator = torch.Generator().manual_seed(1)
    for number in range(1, 4):
        gradient = torch.randn(star.length, generator=generator)
        expected.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_([expected], 1.0)
        optimizer.step()
        answer = one.push(number, gradient, base=number - 1)
        assert (answer.say("outcome", str), answer.say("version", int)) == ("", number)
        assert answer.body.numel() == 0
    torch.testing.assert_close(star.server.centre.flat.params, expected.detach(), rtol=0, atol=1e-6)
    assert star.server.leases.applied == 12
    assert [update.lr for update in star.server.updates] == [LR] * 3


def test_norms_by_parameter_are_those_of_the_last_update_that_they_were_asked_for(stack, tmp_path):
    star = Star(tmp_path, stack)
    one, centre = star.by_hand(1, 11), star.server.centre
    one.push(1)
    assert centre.layer_norms is None  # nobody asked
    gradient = torch.randn(star.length, generator=torch.Generator().manual_seed(1))
    centre.ask_layer_norms()
    one.push(2, gradient)
    expected = {span.name: float(gradient[span.start : span.stop].double().norm()) for span in centre.flat.spans}
    assert centre.layer_norms == pytest.approx(expected, rel=1e-5)
    one.push(3)
    assert centre.layer_norms == pytest.approx(expected, rel=1e-5)


def test_staleness_excludes_a_worker_s_own_updates_and_damps_the_rate(stack, tmp_path):
    star = Star(tmp_path, stack)
    one, other = star.by_hand(1, 11), star.by_hand(2, 22)
    for number in range(1, 5):
        one.push(number, base=0)
    assert other.push(1, base=0).say("staleness", int) == 4
    assert one.push(5, base=0).say("staleness", int) == 1
    seen = [(update.rank, update.staleness, update.lr) for update in star.server.updates]
    assert [row[1] for row in seen[:4]] == [0, 0, 0, 0]
    assert seen[4] == (2, 4, LR / damping(4, 2))
    assert seen[5] == (1, 1, LR)
    # After a pull it starts again.
    version = other.push(2, base=0, pull=True).say("version", int)
    assert other.push(3, base=version).say("staleness", int) == 0


def test_a_gradient_that_is_too_stale_is_refused_its_samples_leased_again_and_fresh_weights_sent(stack, tmp_path):
    star = Star(tmp_path, stack, max_staleness=2)
    one, other = star.by_hand(1, 11), star.by_hand(2, 22)
    for number in range(1, 4):
        one.push(number)
    before = star.server.centre.flat.params.clone()
    answer = other.push(1, base=0)
    assert (answer.say("outcome", str), answer.say("weights", str)) == (TOO_STALE, "full")
    assert torch.equal(star.server.centre.flat.params, before)
    assert star.server.ledger.refused == {TOO_STALE: 1}
    assert other.leases[-1].start == 8  # what it had had
    assert star.server.leases.released == 4
    assert star.server.ledger.closes


def test_a_push_that_comes_again_is_a_duplicate_and_one_of_an_older_generation_is_rolled_back(stack, tmp_path):
    star = Star(tmp_path, stack, generation=4)
    one = star.by_hand(1, 11)
    first = one.leases[0]
    assert one.push(1, generation=4).say("outcome", str) == ""
    weights = star.server.centre.flat.params.clone()
    assert one.push(1, generation=4, lease=first.number).say("outcome", str) == DUPLICATE
    assert one.push(2, generation=3).say("outcome", str) == ROLLED_BACK
    assert one.push(3, generation=4, lease=999).say("outcome", str) == NOT_LEASED
    assert torch.equal(star.server.centre.flat.params, weights)
    account = star.server.account()
    assert (account.pushed, account.applied, account.rolled_back, account.duplicates) == (3, 1, 1, 1)
    assert account.refused == {NOT_LEASED: 1}


def test_samples_of_a_worker_that_leaves_go_to_who_waits(stack, tmp_path):
    star = Star(tmp_path, stack, total=16)
    one, other = star.by_hand(1, 11), star.by_hand(2, 22)
    assert [lease.start for lease in (*one.leases, *other.leases)] == [0, 4, 8, 12]
    other.push(1)
    other.push(2)
    assert other.leases == []
    one.caller.close()
    star.turn_until(lambda: star.server.active == 1)
    star.turn_until(lambda: _hears_leases(other))
    assert [lease.start for lease in other.leases] == [0, 4]
    other.push(3)
    other.push(4)
    assert star.server.leases.left == 0


def _hears_leases(hand: Hand) -> bool:
    letter = hand.caller.receive(0.0)
    if letter is not None:
        hand.leases += leases_in(letter)
    return letter is not None


def test_a_push_may_come_after_its_link_broke_and_was_made_again(stack, tmp_path):
    star = Star(tmp_path, stack)
    one = star.by_hand(1, 11)
    lease = one.leases[0]
    star.mailbox.cut(star.mailbox.members()[0])
    star.turn_until(lambda: star.server.active == 0)
    assert star.server.leases.outstanding == 0
    one.join()
    assert [again.start for again in one.leases] == [0, 4]
    # It was given to itself again meanwhile, under the same number.
    assert one.push(1, lease=lease.number).say("outcome", str) == ""
    assert star.server.ledger.closes


def test_a_lease_that_is_not_used_expires(stack, tmp_path):
    star = Star(tmp_path, stack)
    star.server.lease_s = 0.0
    one = star.by_hand(1, 11)
    first = one.leases[0]
    star.server.turn(0.0)
    assert one.push(1, lease=first.number).say("outcome", str) in ("", NOT_LEASED)
    assert star.server.leases.released > 0
    assert star.server.ledger.closes


def test_samples_whose_lease_expired_go_to_another_and_not_back_to_who_did_not_use_them(stack, tmp_path):
    """Rank 1 says that it lives, and computes nothing: at the end of the run rank 2 does its part."""
    star = Star(tmp_path, stack, total=16)
    one, other = star.by_hand(1, 11), star.by_hand(2, 22)
    for number in (1, 2):
        assert other.push(number).say("outcome", str) == ""
    assert (other.leases, star.server.leases.left) == ([], 8)
    for given in star.server.leases._given.values():
        given.until = 0.0
    star.turn_until(lambda: _hears_leases(other))
    assert [(lease.start, lease.count) for lease in other.leases] == [(0, 4), (4, 4)]
    for number in (3, 4):
        assert other.push(number).say("outcome", str) == ""
    assert star.server.leases.left == 0
    assert one.push(1).say("outcome", str) == NOT_LEASED
    assert star.server.ledger.closes


def test_who_did_not_use_its_lease_gets_another_once_it_is_heard(stack, tmp_path):
    star = Star(tmp_path, stack)
    one = star.by_hand(1, 11)
    for given in star.server.leases._given.values():
        given.until = 0.0
    star.server.turn(0.0)
    assert (star.server.leases.outstanding, star.server.leases.released) == (0, 8)
    assert one.push(1).say("outcome", str) == ""
    assert [(lease.start, lease.count) for lease in one.leases] == [(4, 4), (4, 4), (8, 4)]


def test_a_worker_whose_lease_expired_computes_no_sample_twice(stack, tmp_path):
    star = Star(tmp_path, stack, total=16)
    worker = started(star, 1)
    for given in star.server.leases._given.values():
        given.until = 0.0
    star.server.turn(0.0)
    steps(star, worker, 4)
    assert star.server.leases.left == 0
    assert worker.outcomes == {"": 4}


@pytest.mark.parametrize(
    ("words", "body"),
    [({"tokens": 0}, None), ({"base": "x"}, None), ({"lease": 1.5}, None), ({}, 12), ({"pull": 1}, None)],
)
def test_what_is_no_push_ends_that_link_and_no_other(stack, tmp_path, words, body):
    star = Star(tmp_path, stack)
    one, other = star.by_hand(1, 11), star.by_hand(2, 22)
    said = {"lease": 1, "base": 0, "generation": 0, "tokens": 4, "loss": 8.0, "pull": False, **words}
    size = star.length * 4 if body is None else body
    one.caller.send(Letter(Op.PUSH, 1, said, torch.zeros(size, dtype=torch.uint8)))
    star.turn_until(lambda: star.server.active == 1)
    assert other.push(1).say("outcome", str) == ""
    assert star.server.ledger.closes
    assert (star.server.ledger.pushed, star.server.ledger.pending) == (1, 0)


def test_numbers_that_go_wrong_end_the_run(stack, tmp_path):
    star = Star(tmp_path, stack)
    one = star.by_hand(1, 11)
    with pytest.raises(NotFiniteError, match="not finite"):
        one.push(1, float("nan"))
    star = Star(tmp_path, stack)
    two = star.by_hand(2, 22)
    two.caller.send(Letter(Op.FAILED, 0, {"reason": "the loss of rank 2 is not finite"}))
    with pytest.raises(NotFiniteError, match="rank 2 is not finite"):
        star.turn_until(lambda: False)


# -- rounding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["int8", "bf16", "fp16"])
def test_what_is_pushed_and_what_is_owed_is_what_was_computed(stack, tmp_path, wire):
    """Over a run of a worker: the sum of the dequantised gradients plus the residual is the sum of the gradients."""
    star = Star(tmp_path, stack, wire=wire, interval=3)
    arrived, computed = torch.zeros(star.length), torch.zeros(star.length)
    worker = started(star, 1)
    usual = star.server.decode

    def decode(push, out):
        usual(push, out)
        arrived.add_(out)

    star.server.decode = decode
    seal = worker.feedback.seal

    def sealed(values):
        computed.add_(values)
        return seal(values)

    worker.feedback.seal = sealed
    steps(star, worker, 12)
    assert float(computed.abs().max()) > 0
    torch.testing.assert_close(arrived + worker.feedback.residual, computed, rtol=0, atol=2e-5)
    assert float(worker.feedback.residual.abs().max()) > 0


@pytest.mark.parametrize("wire", ["int8", "bf16"])
def test_a_worker_has_what_the_server_thinks_it_has_and_is_never_far_behind(stack, tmp_path, wire):
    star = Star(tmp_path, stack, wire=wire, interval=2)
    worker = started(star, 1)
    for _ in range(10):
        steps(star, worker, 2)
        [shadow] = star.server.outgoing._shadows.values()
        assert torch.equal(worker.incoming.base, shadow)  # to the bit
    difference = (star.server.centre.flat.params - worker.incoming.base).abs().max()
    assert 0 < float(difference) < 2 * LR


def test_int8_sends_a_quarter_of_the_bytes_both_ways(stack, tmp_path):
    sent = {}
    for wire in ("fp32", "int8"):
        star = Star(tmp_path, stack, wire=wire, interval=1)
        worker = started(star, 1)
        before = star.mailbox.mesh.counters()
        steps(star, worker, 10)
        after = star.mailbox.mesh.counters()
        sent[wire] = (after.bytes_out - before.bytes_out, after.bytes_in - before.bytes_in)
        star.mailbox.close(1.0)
    # Headers and words are much, beside a model of two thousand parameters.
    words = 400 * 10
    assert (sent["int8"][0] - words) / sent["fp32"][0] < 0.27
    assert (sent["int8"][1] - words) / sent["fp32"][1] < 0.27


def test_a_worker_takes_the_server_s_weights_and_untrained_parameters(stack, tmp_path):
    star = Star(tmp_path, stack)
    worker = started(star, 1)
    theirs = dict(star.server.centre.model.state_dict())
    for name, value in worker.model.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    assert worker.entered == [0]


# -- workers in threads -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("interval", "wire"), [(1, "fp32"), (4, "fp32"), (4, "int8")])
def test_two_workers_learn_what_there_is_to_learn(stack, tmp_path, interval, wire):
    star = Star(tmp_path, stack, total=8 * 150, interval=interval, wire=wire)
    workers = [started(star, rank) for rank in (1, 2)]

    def work(worker):
        while (lease := worker.lease()) is not None:
            x, y = samples_of(lease.start % 40, lease.count)
            worker.train_step([(x, y)], lease)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    star.turn_until(lambda: star.server.leases.left == 0)
    star.server._done = Letter(Op.DONE, 0, {"status": "completed", "reason": ""})
    for member in star.mailbox.members():
        star.mailbox.send(member, star.server._done)
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    updates = star.server.updates
    first, last = (sum(u.loss for u in part) / sum(u.tokens for u in part) for part in (updates[:10], updates[-10:]))
    assert last < first - 1.0
    assert {update.rank for update in updates} == {1, 2}
    assert star.server.ledger.closes
    assert star.server.leases.applied == 8 * 150


def test_a_server_that_starts_again_is_found_and_the_open_push_refused_as_older(stack, tmp_path):
    first = Star(tmp_path, stack, wire="int8")
    worker = started(first, 1)
    steps(first, worker, 2)
    lease = worker.lease()
    x, y = samples_of(0, lease.count)
    got = []
    thread = threading.Thread(target=lambda: got.append(worker.train_step([(x, y)], lease)))
    thread.start()
    while not first.mailbox._events:  # the push has arrived, and nobody reads it
        threading.Event().wait(0.01)
    first.mailbox.close(0.0)
    assert worker.feedback.residual.count_nonzero() > 0
    second = Star(tmp_path, stack, generation=1, wire="int8")
    second.turn_until(lambda: not thread.is_alive())
    assert worker.entered == [0, 1]
    assert worker.feedback.residual.count_nonzero() == 0  # it was of weights that nobody has any more
    account = second.server.account()
    assert (account.pushed, account.rolled_back, account.applied) == (1, 1, 0)
    steps(second, worker, 2)
    assert second.server.ledger.applied == 2


def test_a_server_that_never_comes_ends_the_worker_for_good(stack, tmp_path):
    worker = Star(tmp_path, stack).worker(1, join_s=0.5)
    star = Star(tmp_path / "nowhere", stack)
    star.mailbox.close(0.0)
    worker._caller._config = group(1, tmp_path / "nothing")
    with pytest.raises(RunOverError, match="the server is gone"):
        worker.join()


def test_memory_stays_flat(stack, tmp_path):
    star = Star(tmp_path, stack, wire="int8", interval=2)
    worker = started(star, 1)
    steps(star, worker, 10)
    star.server.updates.clear()
    before = _tensor_bytes()
    steps(star, worker, 60)
    star.server.updates.clear()
    assert _tensor_bytes() - before < 4 * star.length
    assert len(star.server._own) == 1
    assert all(len(own) <= 3 for own in star.server._own.values())


def _tensor_bytes() -> int:
    gc.collect()
    return sum(each.nbytes for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter))
