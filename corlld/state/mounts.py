"""What kind of filesystem a folder lies on. A network's does not keep the promises that compare-and-swap needs."""

import re
from pathlib import Path

# Caches of names and attributes, or links and fsyncs that are not what they say.
_NETWORK = (
    "9p afs beegfs ceph cifs coda glusterfs lustre ncpfs nfs nfs4 orangefs smb3 smbfs "
    "fuse.ceph fuse.gcsfuse fuse.glusterfs fuse.goofys fuse.rclone fuse.s3fs fuse.sshfs"
)
NETWORK_FILESYSTEMS = frozenset(_NETWORK.split())


def filesystem_type(path: Path, mountinfo: str) -> str | None:
    """The type of the filesystem that holds `path`, from the text of /proc/self/mountinfo (see proc(5)).

    Args:
        path: absolute, without symbolic links; need not exist.
        mountinfo: one mount a line, later ones over earlier ones.
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
