"""The rule of comparison: alone, and against the program that defines it where that is at hand."""
import copy
import importlib.util
import random
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from fastmlock.scenario import recordings
from fastmlock.scenario.compare import (
    COUNTERS,
    RecordError,
    compare,
    load_records,
    read_records,
    with_repetitions,
)

CHECK = Path(__file__).resolve().parents[2] / "shared" / "oracle" / "check.py"

PAGE = [0, 3, "f", 2, "LUMRDs", 1]
STEP = {"step": 1, "cmd": "p0 mlock A 0 4", "ret": 0, "err": "", "dv": {}, "dvs": {"nr_mlock": 4},
        "p": {"p0": {"VmLck": 16, "reg": {"A": {"vma": [[0, 4, "rd wr lo", 16, 16]], "pg": [PAGE]}}}},
        "f": {"F": [[0, 3, "c", 2, "LUMRDs", 1], [4, 5, "?", -1, "", -1]]}, "agree": [3, 3, 3]}
KERNEL = {"step": 0, "cmd": "", "kernel": "6.1"}


def held(change=None, *, real=None, kernel="6.1"):
    """Compares one step, changed on the model's side by `change` and on the recording's by `real`."""
    mine, other = copy.deepcopy(STEP), copy.deepcopy(STEP)
    (change or (lambda step: None))(mine)
    (real or (lambda step: None))(other)
    return compare([KERNEL, mine], [{**KERNEL, "kernel": kernel}, other])


def page(**fields):
    def change(step):
        run = step["p"]["p0"]["reg"]["A"]["pg"][0]
        for name, value in fields.items():
            run[{"kind": 2, "mapcount": 3, "flags": 4, "count": 5}[name]] = value
    return change


def test_equal():
    result = held()
    assert (result.steps, result.equal, result.equal_soft, result.differing, result.ok) == (1, 1, 1, (), True)
    assert result.fields == 3 + 2 + 2 * 4 * 4 + len(COUNTERS)
    assert str(result) == "steps 1, equal 1, equal with soft flags 1"


@pytest.mark.parametrize("change, line", [
    (lambda s: s.update(ret=-1), "ret: model -1, real 0"),
    (lambda s: s.update(err="EPERM"), "err: model 'EPERM', real ''"),
    (lambda s: s.update(sig=7), "sig: model 7, real 0"),
    (lambda s: s.update(cmd="snap"), "cmd: model ran 'snap'"),
    (lambda s: s["p"]["p0"].update(VmLck=0), "p0 VmLck: model 0, real 16"),
    (lambda s: s["p"].pop("p0"), "p0: missing"),
    (lambda s: s["p"]["p0"]["reg"].pop("A"), "p0.A: missing"),
    (lambda s: s["p"]["p0"]["reg"]["A"]["vma"].clear(), "p0.A vma: model [], real [[0, 4, 'rd wr lo', 16, 16]]"),
    (lambda s: s["p"]["p0"]["reg"]["A"]["pg"].clear(), "p0.A[0-3]: missing, real f mapcount 2 LUMRDs mlock_count 1"),
    (page(kind="a"), "p0.A[0-3]: model a mapcount 2 LUMRDs mlock_count 1, real f mapcount 2 LUMRDs mlock_count 1"),
    (page(mapcount=1), "p0.A[0-3]: model f mapcount 1 LUMRDs mlock_count 1, real f mapcount 2 LUMRDs mlock_count 1"),
    (page(flags=""), "p0.A[0-3]: model f mapcount 2 no flags mlock_count 1, real f mapcount 2 LUMRDs mlock_count 1"),
    (page(count=-1), "p0.A[0-3]: model f mapcount 2 LUMRDs, real f mapcount 2 LUMRDs mlock_count 1"),
    (lambda s: s["f"].clear(), "F[0-3]: missing, real c mapcount 2 LUMRDs mlock_count 1"),
    (lambda s: s["dvs"].clear(), "nr_mlock: model 0, real 4"),
])
def test_hard_differences(change, line):
    result = held(change)
    assert [step.hard for step in result.differing] == [(line,)]
    assert (result.equal, result.equal_soft, result.ok) == (0, 0, False)


def test_soft_differences():
    result = held(page(flags="LUMAs"))
    assert (result.equal, result.equal_soft, result.ok) == (1, 0, True)
    assert result.differing[0].soft == ("p0.A[0-3]: flags LUMAs, real LUMRDs",)
    assert list(result.differing[0].lines()) == ["step 1: p0 mlock A 0 4",
                                                 "    (soft) p0.A[0-3]: flags LUMAs, real LUMRDs"]


@pytest.mark.parametrize("change", [
    page(flags="LUMRDsKBiS".replace("S", "")),
    lambda s: s["dvs"].update(nr_active_file=5),
    lambda s: s["p"].update(p9={"VmLck": 0, "reg": {}}),
    lambda s: s["f"].update(F=[[0, 1, "c", 2, "LUMRDs", 1], [2, 5, "c", 2, "LUMRDs", 1]]),
    lambda s: s.pop("cmd"),
])
def test_what_is_not_looked_at(change):
    assert held(change).equal_soft == 1


def test_recordings_that_do_not_agree_with_themselves():
    counters = held(lambda s: (s["dvs"].clear(), page(flags="LUMs")(s)), real=lambda s: s.update(agree=[3, 2, 3]))
    assert (counters.equal_soft, counters.unsettled_state, counters.unsettled_counters) == (1, 0, 1)
    state = held(lambda s: (s["p"].clear(), s["f"].clear()), real=lambda s: s.update(agree=[2, 2, 3]))
    assert (state.equal_soft, state.unsettled_state, state.unsettled_counters) == (1, 1, 1)
    assert held(lambda s: s.update(ret=1), real=lambda s: s.update(agree=[1, 1, 3])).equal == 0


def test_a_recording_that_was_made_again():
    def again(change, agree):
        other = copy.deepcopy({**STEP, "agree": agree})
        change(other)
        return with_repetitions([KERNEL, STEP], [KERNEL, other])[1]["agree"]

    assert again(lambda s: None, [6, 6, 6]) == [9, 9, 9]
    assert again(page(flags="LRD"), [6, 6, 6]) == [6, 6, 9]                 # it came out otherwise
    assert again(page(flags="LUMDs"), [6, 6, 6]) == [9, 6, 9]               # in a soft flag
    assert again(page(flags="LRD"), [4, 4, 6]) == [7, 7, 9]                 # and itself in two ways


def test_counters_of_a_shared_machine_are_left_out():
    assert held(lambda s: s["dvs"].clear(), kernel="6.18.44").equal_soft == 1


def test_chance_after_compact():
    real = [KERNEL, {**STEP, "cmd": "compact"}, {**STEP, "step": 2}]
    mine = [copy.deepcopy(record) for record in real]
    for step in mine[1:]:
        page(kind="-", mapcount=-1, flags="", count=-1)(step)
        step["dvs"] = {}
    assert compare(mine, real).equal_soft == 2
    mine[2]["p"]["p0"]["VmLck"] = 0
    assert compare(mine, real).equal == 1


def test_missing_steps():
    result = compare([KERNEL], [KERNEL, STEP])
    assert result.differing[0].hard == ("step missing",)


@pytest.mark.parametrize("real", [[], [KERNEL, {"step": 1}], [KERNEL, {**STEP, "p": 3}], [3]])
def test_what_are_no_records(real):
    with pytest.raises(RecordError):
        compare([KERNEL, STEP], real)


@pytest.mark.parametrize("text", [b"", b"{", b"3\n", b"\xff", b"[" * 100_000, b"\n\n"])
def test_files_that_are_no_records(tmp_path, text):
    path = tmp_path / "r.jsonl"
    path.write_bytes(text)
    with pytest.raises(RecordError, match=r"r\.jsonl"):
        load_records(path)


def test_records_of_text():
    assert read_records('{"step": 0}\n\n{"step": 1}', "x") == [{"step": 0}, {"step": 1}]


# ---- against the program that defines the rule


KNOWN_TO_THE_RULE = [name for name in COUNTERS if not name.startswith("HugePages")]


def changed(records, rng, times):
    """A copy of `records` with some values changed; still records."""
    records = copy.deepcopy(records)
    for _ in range(times):
        step = rng.choice(records[1:])
        regions = [region for state in step["p"].values() for region in state["reg"].values()]
        lists = [pages for pages in (*(region["pg"] for region in regions), *step["f"].values()) if pages]
        match rng.randrange(12):
            case 0:
                step["ret"] = rng.choice((0, 1, -1))
            case 1:
                step["err"] = rng.choice(("", "EINVAL", "ENOMEM"))
            case 2:
                step["sig"] = rng.choice((0, 7, 11))
            case 3:
                step["dvs"][rng.choice((*KNOWN_TO_THE_RULE, "nr_active_file"))] = rng.randrange(-3, 4)
            case 4:
                step["agree"] = rng.choice(([3, 3, 3], [3, 2, 3], [2, 2, 3], [2, 1, 3]))
            case 5 if regions:
                rng.choice(regions)["vma"] = [[0, rng.randrange(1, 9), rng.choice(("rd", "rd wr lo")), 0, 0]]
            case 6 if step["p"]:
                rng.choice(list(step["p"].values()))["VmLck"] = rng.choice((0, 16))
            case 7 if step["p"]:
                del step["p"][rng.choice(list(step["p"]))]
            case 8:
                step["cmd"] = rng.choice(("compact", "snap", step["cmd"]))
            case 9 if len(records) > 3:
                records.remove(step)
            case _ if lists:
                run = rng.choice(rng.choice(lists))
                at = rng.randrange(1, 6)
                run[at] = {1: run[1] + rng.choice((0, -1)), 2: rng.choice("fac-sx?"), 3: rng.randrange(-1, 3),
                           4: "".join(rng.sample("LUMARDasSWKiTBz", rng.randrange(6))), 5: rng.randrange(-1, 3)}[at]
    return records


@pytest.mark.skipif(not CHECK.exists(), reason=f"the program that defines the rule is not at {CHECK}")
@given(seed=st.integers(0, 2**32), times=st.integers(0, 12))
@settings(max_examples=300, deadline=None)
def test_same_verdict_as_the_rule(seed, times):
    spec = importlib.util.spec_from_file_location("check", CHECK)
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)

    rng = random.Random(seed)
    kernel = rng.choice(recordings.kernels())
    scenario = rng.choice(recordings.scenarios(kernel))
    real = recordings.load(kernel, scenario)
    mine = changed(real, rng, times)
    if rng.random() < 0.5:
        real = changed(real, rng, times)
    result = compare(mine, real)
    steps, equal, equal_soft, differ = check.compare(mine, real)
    assert (result.steps, result.equal, result.equal_soft) == (steps, equal, equal_soft)
    assert [(one.step, one.cmd, bool(one.hard), bool(one.soft)) for one in result.differing] == [
        (step, cmd, bool(hard), bool(soft)) for step, cmd, hard, soft in differ]
