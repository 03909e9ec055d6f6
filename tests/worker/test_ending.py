"""What the end of a guest means, for the ends that no guest of ours can bring about at will."""

import pytest

from services.vim.worker.ending import Left, ending

RAN = "runstate_set current_run_state 6 (prelaunch) new_state 9 (running)\n"
OFF = f"{RAN}qemu_system_shutdown_request reason=6\n"


@pytest.mark.parametrize(
    ("left", "reason", "code"),
    [
        (Left(83, b"bye"), None, 0),
        (Left(85, b"boom"), "GuestCrashed", 85),
        (Left(7, b"x"), None, 3),
        (Left(1, b"x"), None, 0),
        (Left(1, b"", "could not load kernel"), "EngineFailed", 1),
        (Left(1, b"", "Could not set up host forwarding rule 'tcp::80'"), "PortInUse", 1),
        (Left(134, b"x"), "EngineFailed", 134),
        (Left(139, b"x"), "EngineFailed", 139),
        (Left(159, b"x"), "EngineFailed", 159),
        (Left(137, b"x"), None, 137),
        (Left(127, b"bye"), None, 63),
        (Left(127), "EngineFailed", 127),
        (Left(0, b"x", log=OFF), None, 0),
        (Left(0, b"x", log=RAN), "GuestReset", 1),
        (Left(0, b"x", log=""), None, 0),
        (Left(0, b"[..] CRIT: [app] Unikraft crash - Calypso (0.17.0)\n", log=OFF), "GuestCrashed", 1),
        (Left(0, b"[..] CRIT:  Unikraft Crash - Ijiraq (0.21.0)\n", log=OFF), "GuestCrashed", 1),
        (Left(0, b"ERR: Could not initialize the HWRNG (-95)", log=OFF), "GuestFailed", 1),
        (Left(0, b"x", "terminating on signal 15 from pid 7 (sh)", RAN), None, 143),
    ],
)
def test_the_end_of_a_unikernel(left: Left, reason: str | None, code: int) -> None:
    found = ending(left, unikernel=True, accelerated=False)
    assert (found.reason, found.code) == (reason, code)


def test_a_useless_kvm_is_told_from_a_guest_that_failed() -> None:
    assert ending(Left(134), unikernel=True, accelerated=True).reason == "AccelerationFailed"
    assert ending(Left(85, b"boom"), unikernel=True, accelerated=True).reason == "GuestCrashed"
    assert ending(Left(0), unikernel=True, accelerated=True).reason is None


def test_a_vm_has_no_codes_of_its_own() -> None:
    assert ending(Left(7, b"x"), unikernel=False, accelerated=False).code == 7
    assert ending(Left(0, b"panic", log=RAN), unikernel=False, accelerated=False).reason == "GuestReset"
