"""The filesystem under a folder is read off the mounts, so that a network's is refused."""

from pathlib import Path

import pytest

from corlld.state.mounts import NETWORK_FILESYSTEMS, filesystem_type

MOUNTINFO = r"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /srv rw,relatime shared:5 - nfs4 server:/export rw
31 30 0:41 / /srv/local rw,relatime - xfs /dev/vdb rw
32 22 0:42 / /with\040space rw,relatime - fuse.sshfs host:/ rw
33 22 0:43 / /over rw,relatime - ext4 /dev/vdc rw
34 22 0:44 / /over rw,relatime master:3 - cifs //server/share rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/corlld", "ext4"),
        ("/srv", "nfs4"),
        ("/srv/not/there/yet", "nfs4"),
        ("/srv/local/state", "xfs"),
        ("/srvice", "ext4"),
        ("/with space/state", "fuse.sshfs"),
        ("/over/state", "cifs"),
    ],
)
def test_the_innermost_and_newest_mount_decides(path: str, kind: str) -> None:
    assert filesystem_type(Path(path), MOUNTINFO) == kind


def test_lines_that_are_no_mounts_are_passed_over() -> None:
    assert filesystem_type(Path("/"), "nonsense\n\n1 2 3\n") is None


def test_local_filesystems_are_not_refused() -> None:
    assert not {"ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "virtiofs"} & NETWORK_FILESYSTEMS
