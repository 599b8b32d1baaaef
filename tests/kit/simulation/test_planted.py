"""Simulations find faults: each known one, planted in a copy of the core or of the kit's store, breaks a promise."""

from pathlib import Path

import pytest
from chance import DRILLS
from kit.simulation.planted import FAULTS, Planted, plant, python, simulated
from paths import ROOT

SEEDS = range(1000)
FEW_SEEDS = range(60)

each_fault = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)


@each_fault
def test_the_text_of_each_fault_occurs_once(fault: Planted) -> None:
    assert (ROOT / fault.file).read_text().count(fault.was) == 1
    assert fault.was != fault.now


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.quick], ids=lambda fault: fault.name)
def test_few_seeds_find_the_easiest_faults(fault: Planted, tmp_path: Path) -> None:
    plant(fault, tmp_path)
    assert simulated(tmp_path, FEW_SEEDS, "--as-found").promise in fault.promises


@pytest.mark.skipif(not DRILLS, reason="drills run it: a thousand simulations take minutes")
@each_fault
def test_a_thousand_seeds_find_each_fault(fault: Planted, tmp_path: Path) -> None:
    """The printed test fails with the fault, and passes without it."""
    plant(fault, tmp_path)
    report = simulated(tmp_path, SEEDS)
    print(f"\n{fault.name}\n{report.text}")
    assert report.promise in fault.promises
    test = f"{report.test}\n\ntest_seed_{report.seed}()\n"
    assert report.promise in python(tmp_path, test).stderr
    assert python(ROOT, test).returncode == 0
