"""Finds the type of the filesystem below a folder: a network filesystem can't give what compare-and-swap needs."""

import re
from pathlib import Path

from corlld.errors import ConfigurationError

_MOUNTS = Path("/proc/self/mountinfo")

# They cache names and attributes, or their links and fsyncs do not do what they say.
_NETWORK = (
    "9p afs beegfs ceph cifs coda glusterfs lustre ncpfs nfs nfs4 orangefs smb3 smbfs "
    "fuse.ceph fuse.gcsfuse fuse.glusterfs fuse.goofys fuse.rclone fuse.s3fs fuse.sshfs"
)
NETWORK_FILESYSTEMS = frozenset(_NETWORK.split())


def refuse_network_filesystem(path: Path) -> None:
    """Raise ConfigurationError if the folder of a state store lies on a network filesystem."""
    if not _MOUNTS.exists():
        return
    kind = filesystem_type(path.resolve(), _MOUNTS.read_text(errors="replace"))
    if kind in NETWORK_FILESYSTEMS:
        raise ConfigurationError(
            f"state.path: {path} lies on a network filesystem ({kind}), which can't keep states safe; use a local disk"
        )


def filesystem_type(path: Path, mountinfo: str) -> str | None:
    """Return the type of the filesystem that holds `path`; None if no mount holds it.

    Args:
        path: absolute, without symbolic links; need not exist.
        mountinfo: text of /proc/self/mountinfo (see proc(5)): one mount per line, a later one over an earlier one.
    """
    found, depth = None, -1
    for line in mountinfo.splitlines():
        mount, _, filesystem = line.partition(" - ")
        fields = mount.split(" ")
        if len(fields) < 5 or not filesystem:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4]))
        if path.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = filesystem.split(" ")[0], len(point.parts)
    return found
