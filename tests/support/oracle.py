"""Judges a finished run from the outside: what is on the disk and in the topics, against what was sent.

A program of its own, which imports nothing of corlld: `python -I oracle.py CASE.json` prints a verdict as JSON. It
reads the input topic, the dead letters, the group's committed offsets, every user's state and every published file by
itself, and works out what each state must be. `CASE.json` says where things are, and which records are invalid and why.
"""

import hashlib
import hmac
import json
import re
import struct
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import load_file

READ_TIMEOUT_MS = 20_000
STATE_KEY = "corlld.state"
# A daemon notes every five seconds which letters are acknowledged. Those that it sent just before it falls are sent
# again. Several of the hundred daemons of a storm may fall so at the same record.
MOST_LETTERS, MOST_LETTERS_ON_AVERAGE = 20, 5.0  # of a record
TEXTS = re.compile(rb"[ -~]{6,}")  # in a file of numbers; ids and names of users are longer
COPY_HEADERS = ("__connect.errors.topic", "__connect.errors.partition", "__connect.errors.offset")


@dataclass(frozen=True)
class Case:
    """The run that is judged. Paths are strings; offsets go by "partition/offset".

    bad: reason of each record that must be set aside. copies_allowed: after kills a dead letter may be there again.
    stops: daemons that were stopped and went on when others owned their users. Each may send one old announcement, and
    then the newest again. If it is killed as it stores, it leaves a temporary file, which goes after an hour.
    pairs_per_step: at 1 Adam's step counter equals the number of events that trained, however batches were cut.
    deferred: a version may hold several updates.
    tensors_folder: `<uid>.safetensors` of an undisturbed run, which the states must equal bit for bit.
    """

    bootstrap: str
    topic: str
    group: str
    dead_letters_topic: str
    state_folder: str
    adapters_folder: str
    secret: str
    bad: dict[str, str]
    records: int
    keep_versions: int = 3
    pairs_per_step: int = 4
    announce_topic: str | None = None
    copies_allowed: bool = False
    deferred: bool = False
    stops: int = 0
    tensors_folder: str | None = None
    known_as: str | None = None  # what states call the topic, if not by its id
    bucket: dict[str, str] | None = None  # of the states, in place of the folder: endpoint, name, prefix, key, secret


@dataclass
class Wanted:
    """The state that one user must have, worked out from the input topic.

    event_ids: distinct, in the order of the partition, since the last erasure.
    seen: every id of an edit or an erasure, also from before an erasure: what was erased stays erased.
    erased: there was an erasure. gone: ids that an erasure has covered.
    """

    user_id: str
    event_ids: list[str] = field(default_factory=list)
    acceptances: int = 0
    duplicates: int = 0
    applied: dict[str, int] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    erased: bool = False
    gone: set[str] = field(default_factory=set)

    def erase(self) -> None:
        self.gone.update(self.event_ids)
        self.event_ids, self.acceptances, self.erased = [], 0, True


def main() -> int:
    case = Case(**json.loads(Path(sys.argv[1]).read_text()))
    problems: list[str] = []
    figures = judge(case, problems)
    figures["imported_corlld"] = any(name.split(".")[0] == "corlld" for name in sys.modules)
    print(json.dumps({"ok": not problems, "problems": problems, "figures": figures}, indent=1))
    return 1 if problems else 0


def judge(case: Case, problems: list[str]) -> dict[str, Any]:
    """Append a sentence for everything that is wrong. Returns figures for the reader."""
    records = list(read_topic(case.bootstrap, case.topic))
    if len(records) != case.records:
        problems.append(f"the input topic holds {len(records)} records, {case.records} were sent")
    wanted = wanted_states(case, records)
    states = dict(stored_states(case))
    if set(states) != set(wanted):
        problems.append(f"{len(set(states) - set(wanted))} unknown users, {len(set(wanted) - set(states))} lost users")
    for uid in sorted(set(states) & set(wanted)):
        judge_state(case, uid, *states[uid], wanted[uid], problems)
        judge_releases(case, uid, *states[uid], problems)
    headers = {uid: state for uid, (state, _) in states.items()}
    judge_versions(case, headers, problems)
    judge_files(case, headers, wanted, problems)
    copies = judge_dead_letters(case, problems)
    late = judge_announcements(case, headers, problems) if case.announce_topic else 0
    judge_notes(case, problems)
    lag = judge_offsets(case, problems)
    return {
        "records": len(records),
        "users": len(wanted),
        "events": sum(len(user.event_ids) for user in wanted.values()),
        "acceptances": sum(user.acceptances for user in wanted.values()),
        "duplicates": sum(user.duplicates for user in wanted.values()),
        "dead_letters": len(case.bad),
        "copies_of_dead_letters": copies.total() - len(copies),
        "most_letters_of_a_record": max(copies.values(), default=0),
        "late_announcements": late,
        "versions": sum(state["version"] for state, _ in states.values()),
        "pairs_applied": sum(state["statistics"]["pairs_applied"] for state, _ in states.values()),
        "lag": lag,
    }


# --- what must be -----------------------------------------------------------------------------------------------------


def uid_of(case: Case, user_id: str) -> str:
    return hmac.new(case.secret.encode(), user_id.encode(), hashlib.sha256).hexdigest()[:32]


def read_event(record: Any) -> tuple[str, dict[str, Any]]:
    """The id and the fields of a good record: plain JSON, a CloudEvent in either mode, or a tombstone (no value)."""
    if record.value is None:
        return "", {"user_id": record.key.decode()}
    headers = {name: value.decode() for name, value in record.headers}
    body = json.loads(record.value)
    if "ce_id" in headers:
        return f"{headers['ce_source']}/{headers['ce_id']}", body
    if "specversion" in body:
        return f"{body['source']}/{body['id']}", body["data"]
    return body["event_id"], body


def wanted_states(case: Case, records: list[Any]) -> dict[str, Wanted]:
    """Each user's state as the input topic alone decides it: partitions in order, a repeated id counts once."""
    topic_id = case.known_as or topic_id_of(case.bootstrap, case.topic)
    wanted: dict[str, Wanted] = {}
    for record in records:
        if f"{record.partition}/{record.offset}" in case.bad:
            continue
        event_id, fields = read_event(record)
        user = wanted.setdefault(uid_of(case, fields["user_id"]), Wanted(fields["user_id"]))
        user.applied[f"{topic_id}/{record.partition}"] = record.offset + 1
        if record.value is None:  # it has no id, and erases each time
            user.erase()
            continue
        if event_id in user.seen:
            user.duplicates += 1
            continue
        user.seen.add(event_id)
        if fields.get("type") == "erase":
            user.erase()
            continue
        user.event_ids.append(event_id)
        user.acceptances += fields["proposed"] == fields["edited"]
    return wanted


# --- what is ----------------------------------------------------------------------------------------------------------


def judge_state(
    case: Case, uid: str, state: dict[str, Any], tensors: dict[str, Any], wanted: Wanted, problems: list[str]
) -> None:
    figures = state["statistics"]
    rejected = sum(figures["rejected"].values())
    outcomes = figures["pairs_applied"] + figures["acceptances"] + figures["no_difference"] + rejected
    remembered = [event_id for event_id in state["recent_event_ids"] if event_id in wanted.event_ids]
    expected = {
        "uid": (state["uid"], uid),
        "events": (figures["events"], len(wanted.event_ids)),
        "events with an outcome": (outcomes, len(wanted.event_ids)),
        "acceptances": (figures["acceptances"], wanted.acceptances),
        "applied offsets": (state["applied"], wanted.applied),
        "distinct recent event ids": (len(set(remembered)), len(remembered)),
        "order of recent event ids": (remembered, wanted.event_ids[-len(state["recent_event_ids"]) :]),
        "erased event ids": (sorted(wanted.gone & set(state["recent_event_ids"])), []),
        "events by producing version": (sum(d["events"] for d in figures["drafts"].values()), len(wanted.event_ids)),
    }
    problems.extend(
        f"user {uid}: {name}: found {found}, expected {due}" for name, (found, due) in expected.items() if found != due
    )
    # Versions go on through an erasure, updates are counted anew.
    version, updates = state["version"] - state["erased_through"], figures["updates"]
    if not (min(1, updates) if case.deferred else updates) <= version <= updates:
        problems.append(f"user {uid}: {version} versions for {updates} updates")
    if state["erased_through"] and not wanted.erased:
        problems.append(f"user {uid}: was never erased, the state has an erasure")
    # The step counter lies beside the tensors it counts: an event that was trained on twice shows here. Acceptances
    # train too, since no test that is judged here turns learning.acceptance_weight off.
    steps, trained = state["optimizer_step"] or 0, figures["pairs_applied"] + figures["acceptances"]
    fewest = max(figures["updates"], -(-trained // case.pairs_per_step))
    if not fewest <= steps <= trained:
        problems.append(f"user {uid}: {steps} optimizer steps for {trained} events in {figures['updates']} updates")
    if case.tensors_folder:
        file = Path(case.tensors_folder) / f"{uid}.safetensors"
        undisturbed = load_file(file) if file.exists() else {}
        if not undisturbed and tensors:
            problems.append(f"user {uid}: has tensors, and none in the undisturbed run")
        for name, tensor in undisturbed.items():
            if name not in tensors:
                problems.append(f"user {uid}: {name} is missing")
            elif tensor.tobytes() != tensors[name].tobytes():
                furthest = float(abs(tensor - tensors[name]).max())
                problems.append(f"user {uid}: {name} is up to {furthest:.2g} from the undisturbed run's")


def judge_releases(case: Case, uid: str, state: dict[str, Any], tensors: dict[str, Any], problems: list[str]) -> None:
    """The newest versions are out, without a gap, each whole; the newest holds the state's own tensors."""
    folder = Path(case.adapters_folder) / uid
    # A kill while an old version was being removed may leave a part of it: without its config it is no version.
    out = sorted(int(config.parent.name[1:]) for config in folder.glob("v*/adapter_config.json"))
    newest = state["version"]
    first = max(1, newest - case.keep_versions + 1, state["erased_through"] + 1)
    due = list(range(first, newest + 1)) if state["release"] else []
    if out != due:
        problems.append(f"user {uid}: versions {out} are out, expected {due}")
        return
    for version in out:
        release = folder / f"v{version:06d}"
        manifest = json.loads((release / "manifest.json").read_text())
        data = (release / "adapter_model.safetensors").read_bytes()
        if hashlib.sha256(data).hexdigest() not in json.dumps(manifest):
            problems.append(f"user {uid}: the manifest of version {version} names another digest")
        if manifest["version"] != version or manifest["uid"] != uid:
            problems.append(f"user {uid}: the manifest of version {version} is another version's")
        json.loads((release / "adapter_config.json").read_text())
        if version == newest:
            published = numpy.concatenate([tensor.ravel() for tensor in load_safetensors(data).values()])
            # Sorted: which stretch of the flat state belongs to which module is no concern of the oracle.
            if not numpy.array_equal(numpy.sort(published), numpy.sort(tensors["weights"])):
                problems.append(f"user {uid}: version {version} does not hold the state's tensors")


def judge_versions(case: Case, states: dict[str, dict[str, Any]], problems: list[str]) -> None:
    """No file of an erased version is left, and nothing of a user whom the store does not know."""
    for folder in sorted(Path(case.adapters_folder).iterdir()):
        if folder.name.startswith("."):  # what a kill left of the start's probe
            continue
        if folder.name not in states:
            problems.append(f"{folder.name} has versions, and no state")
            continue
        through = states[folder.name]["erased_through"]
        erased = [release for release in folder.glob("v*") if int(release.name[1:]) <= through]
        if left := sorted(f"{file.parent.name}/{file.name}" for release in erased for file in release.iterdir()):
            problems.append(f"user {folder.name}: {left} are left, versions up to {through} were erased")


def judge_files(case: Case, states: dict[str, dict[str, Any]], wanted: dict[str, Wanted], problems: list[str]) -> None:
    """No file has an erased event's id or a user's raw id, and no generation before is ahead of the newest state."""
    secrets = {event_id.encode(): f"erased event {event_id}" for user in wanted.values() for event_id in user.gone}
    secrets |= {user.user_id.encode(): f"user id {user.user_id}" for user in wanted.values()}
    left_over = 0
    for name, data in stored_files(case):
        texts = b"\n".join(TEXTS.findall(data))
        found = [what for secret, what in secrets.items() if secret in texts]
        if found and name.startswith("temporary/") and left_over < case.stops:
            left_over += 1
        elif found:
            problems.append(f"{name} has {', '.join(found[:5])}")
        if name.startswith("users/") and (newest := states.get(name.split("/")[1])) is not None:
            judge_generation(name, read_header(data), newest, problems)


def judge_generation(name: str, state: dict[str, Any], newest: dict[str, Any], problems: list[str]) -> None:
    """Hold any generation of a user's state to the newest."""
    ahead = [place for place, offset in state["applied"].items() if offset > newest["applied"].get(place, 0)]
    if ahead or state["version"] > newest["version"] or state["erased_through"] > newest["erased_through"]:
        problems.append(f"{name} is ahead of the user's newest state")
    if newest["erased"] and not state["erased"]:
        problems.append(f"{name} is there, and its user is erased")


def judge_dead_letters(case: Case, problems: list[str]) -> "Counter[str]":
    """Each bad record is there with its reason and under its key, and nothing else is. Returns the letters of each."""
    topic_id = case.known_as or topic_id_of(case.bootstrap, case.topic)
    copies: Counter[str] = Counter()
    for letter in read_topic(case.bootstrap, case.dead_letters_topic):
        headers = {name: value.decode(errors="replace") for name, value in letter.headers}
        topic, partition, offset = (headers.get(name) for name in COPY_HEADERS)
        place = f"{partition}/{offset}"
        copies[place] += 1
        if topic != case.topic or place not in case.bad:
            problems.append(f"dead letter for {place}, which is a good record")
        elif headers["corlld.reason"] != case.bad[place]:
            problems.append(f"dead letter for {place}: {headers['corlld.reason']}, expected {case.bad[place]}")
        if not letter.key.decode().endswith(f"/{topic_id}/{place}"):
            problems.append(f"dead letter for {place} has another record's key")
    if lost := set(case.bad) - set(copies):
        problems.append(f"bad records without a dead letter: {sorted(lost)}")
    most = MOST_LETTERS if case.copies_allowed else 1
    if repeated := {place: count for place, count in copies.items() if count > most}:
        problems.append(f"dead letters sent more than {most} times: {repeated}")
    if copies.total() > MOST_LETTERS_ON_AVERAGE * max(1, len(copies)):
        problems.append(f"{copies.total()} dead letters were sent for {len(copies)} records")
    return copies


def judge_announcements(case: Case, states: dict[str, dict[str, Any]], problems: list[str]) -> int:
    """The last word on each user is the newest version: what a compacted topic keeps. Returns late announcements.

    Each version has one digest, comes from a stored state, and is above all before it. Only who was stopped may be
    late, with a version that is a stored state's too.
    """
    assert case.announce_topic is not None
    digests: dict[tuple[str, int], str] = {}
    highest: dict[str, int] = {}
    last: dict[str, int] = {}
    late: list[str] = []
    for record in read_topic(case.bootstrap, case.announce_topic):
        uid = record.key.decode()
        last.pop(uid, None)
        if record.value is None:
            continue
        announcement = json.loads(record.value)
        version, digest = announcement["version"], announcement["digest"]
        last[uid] = version
        if digests.setdefault((uid, version), digest) != digest:
            problems.append(f"user {uid}: version {version} was announced with two digests")
        if version < highest.get(uid, 0):
            late.append(f"{version} of {uid} after {highest[uid]}")
        highest[uid] = max(version, highest.get(uid, 0))
    if above := {
        uid: version for uid, version in highest.items() if version > states.get(uid, {"version": 0})["version"]
    }:
        problems.append(f"versions were announced that no state has: {above}")
    if len(late) > case.stops:
        problems.append(f"versions went back, and {case.stops} daemons were stopped: {late}")
    trained = {uid: version for uid, state in states.items() if (version := visible_version(state))}
    if last != trained:
        problems.append(f"last announced versions {last}, expected {trained}")
    return len(late)


def judge_notes(case: Case, problems: list[str]) -> None:
    """No note of the outbox is left: the last daemon has adopted those of others, and removed what it has announced."""
    notes = {name: json.loads(data) for name, data in stored_files(case) if name.startswith("outbox/")}
    words = read_topic(case.bootstrap, case.announce_topic) if notes and case.announce_topic else ()
    announced = {record.key.decode(): record.timestamp for record in words}  # when last, in milliseconds
    for name, note in notes.items():
        owed = [uid for uid in note["uids"] if announced.get(uid, 0) < int(1000 * note["since"])]
        problems.append(f"{name} is left, {f'and {owed} were not announced' if owed else 'its users were announced'}")


def visible_version(state: dict[str, Any]) -> int:
    """Return the version that must be announced; 0 if none: nothing was trained since the start or an erasure."""
    return int(state["version"]) if state["release"] else 0


def judge_offsets(case: Case, problems: list[str]) -> int:
    """Committed equals end offset everywhere. Returns the lag, in records."""
    committed, ends = group_offsets(case.bootstrap, case.topic, case.group)
    if committed != ends:
        problems.append(f"committed offsets {committed}, end offsets {ends}")
    return sum(end - (committed[partition] or 0) for partition, end in ends.items())


# --- reading ----------------------------------------------------------------------------------------------------------


def consumer_of(bootstrap: str, **options: Any) -> KafkaConsumer:
    return KafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, allow_auto_create_topics=False, **options
    )


def read_topic(bootstrap: str, topic: str) -> Iterator[Any]:
    """Every record of the topic, partition by partition, in order."""
    consumer = consumer_of(bootstrap, auto_offset_reset="earliest")
    try:
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
        ends = consumer.end_offsets(partitions)
        for partition in partitions:
            consumer.assign([partition])
            consumer.seek_to_beginning(partition)
            while consumer.position(partition) < ends[partition]:
                yield from consumer.poll(timeout_ms=READ_TIMEOUT_MS).get(partition, [])
    finally:
        consumer.close()


def group_offsets(bootstrap: str, topic: str, group: str) -> tuple[dict[int, int | None], dict[int, int]]:
    """The group's committed offset of each partition (None: none), and the partitions' end offsets."""
    consumer = consumer_of(bootstrap, group_id=group)
    try:
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
        ends = consumer.end_offsets(partitions)
        return {p.partition: consumer.committed(p) for p in partitions}, {p.partition: ends[p] for p in partitions}
    finally:
        consumer.close()


def topic_id_of(bootstrap: str, topic: str) -> str:
    """32 hex digits, as states and dead letters name it."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        return uuid.UUID(str(admin.describe_topics([topic])[0]["topic_id"])).hex
    finally:
        admin.close()


def stored_states(case: Case) -> Iterator[tuple[str, tuple[dict[str, Any], dict[str, Any]]]]:
    """Yield uid, state and tensors of every user in the store, whichever kind it is."""
    if case.bucket is None:
        for folder in sorted((Path(case.state_folder) / "users").iterdir()):
            yield folder.name, read_newest_state(folder)
        return
    for name, data in stored_files(case):
        if name.endswith("/state.safetensors"):
            yield name.split("/")[-2], (read_header(data), load_safetensors(data))


def stored_files(case: Case) -> Iterator[tuple[str, bytes]]:
    """Yield the name below the store, such as `users/UID/...`, and the content of everything in it, adapters too."""
    adapters = Path(case.adapters_folder)
    yield from ((f"adapters/{file.relative_to(adapters)}", file.read_bytes()) for file in files_below(adapters))
    if case.bucket is None:
        states = Path(case.state_folder)
        yield from ((str(file.relative_to(states)), file.read_bytes()) for file in files_below(states))
        return
    import boto3

    place = case.bucket
    client = boto3.client(
        "s3",
        endpoint_url=place["endpoint"],
        region_name="us-east-1",
        aws_access_key_id=place["key"],
        aws_secret_access_key=place["secret"],
    )
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=place["name"], Prefix=f"{place['prefix']}/")
    for name in [entry["Key"] for page in pages for entry in page.get("Contents", ())]:
        data = client.get_object(Bucket=place["name"], Key=name)["Body"].read()
        yield name.removeprefix(f"{place['prefix']}/"), data


def files_below(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def newest_state_file(folder: Path) -> Path:
    return max(file for file in folder.iterdir() if file.stem.isdigit() and file.suffix == ".safetensors")


def read_state_header(file: Path) -> dict[str, Any]:
    """Everything of a state but its tensors: the JSON in the safetensors header's metadata."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        return read_header(struct.pack("<Q", length) + stream.read(length))


def read_header(data: bytes) -> dict[str, Any]:
    """Return what `read_state_header` does, from the file's bytes."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    state: dict[str, Any] = json.loads(header["__metadata__"][STATE_KEY])
    return state


def read_newest_state(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    file = newest_state_file(folder)
    return read_state_header(file), load_file(file)


def to_json(case: Case) -> str:
    return json.dumps(asdict(case))


if __name__ == "__main__":
    sys.exit(main())
