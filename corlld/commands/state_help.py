"""The help of `corlld state show|verify|repair|export|import`: the line, the description and the epilog of each."""

SHOW = "show versions, applied offsets, recent event ids, counts and prequential figures"
SHOW_DESCRIPTION = (
    "Show each user's state: version, applied offsets, recent event ids, counts and prequential figures. "
    "Without a user: a line per user. Then states are not read whole: damage that leaves a file's header and length as "
    "they were is found by `verify`."
)
SHOW_EPILOG = """\
examples:
  corlld state show
  corlld state show ann
  corlld state show - --json < user_id.txt

The exit code is 65 if there is no store, no such user, or a state that can't
be read. The others are in `corlld --help`.
"""

VERIFY = "read every state and every newest published version, and compare checksums"
VERIFY_DESCRIPTION = (
    "Read every state as the daemon would, the generation before it, and the newest published version of each user, "
    "and compare checksums. Name versions that are newer than their states, and files that may hold what was erased. "
    "Nothing is changed."
)
VERIFY_EPILOG = """\
examples:
  corlld state verify
  corlld state verify ann

The exit code is 65 if anything is wrong. The others are in `corlld --help`.
"""

REPAIR = "mend states that can't be read, from the generation before and the user's records"
REPAIR_DESCRIPTION = (
    "Mend states that can't be read. The generation before becomes the state. The user's records that it lacks are "
    "sent to kafka.topic once more: those of the topic up to the group's commits, and dead letters that the topic has "
    "no longer. Without --yes nothing is changed, and what would be done is printed."
)
REPAIR_EPILOG = """\
examples:
  corlld state repair                  look at all users first
  corlld state repair --uid UID --yes

Let the daemon run: it learns what is sent, and an event that a state knows is
not learnt twice. Before a user's records are sent, the repair waits until the
group has committed what was in the user's partitions when the states were
restored. Other partitions hold nobody up for longer than 10 seconds. Records
that retention or compaction has taken from the topic are missing from the
state for good, unless they are dead letters: their number is printed. A repair
that was interrupted goes on when it is run again.

exit codes:
  0    nothing is to be repaired, or everything was
  65   a state has no generation before, or one that can't be read either, or
       answers with an error; or the commits of a partition stand still: its
       users are not repaired, so run the repair again when its lag is 0;
       without --yes: there is something to repair; or the input is a file:
       what to do by hand is printed, step by step
  69   no broker, no topic or no state store, or the broker stopped
       acknowledging
  130  interrupted
"""

EXPORT = "copy the store to a folder"
EXPORT_DESCRIPTION = (
    "Copy the states to a folder, which is then a state store itself: a backup, or the way from a bucket to a folder. "
    "A second export to the same folder copies what has changed with --replace. The secret is not in it: keep "
    "identity.secret too, or the users can't be found again."
)
EXPORT_EPILOG = """\
examples:
  corlld state export /backup/corlld
  corlld state export /backup/corlld --replace     bring a backup up to date
  corlld state export /backup/ann ann              one user

A backup holds what a user may ask you to erase. Bring it up to date after an
erasure (--replace), or remove it. A copy of all users has the notes on those
who are still to be announced too. It has not the journal of attempts: with the
copy, crashes are counted anew, and a dead letter may be sent twice.

The exit code is 65 if a state could not be copied. The others are in
`corlld --help`.
"""

IMPORT = "copy the states of an exported folder into the store"
IMPORT_DESCRIPTION = (
    "Copy the states of a folder that `export` made into the store that the settings name: a folder, or a bucket with "
    "state.url. Stop the daemons first. What the store has erased is not brought back, also if the user came back. "
    "Versions go on above all that were ever out. With --replace also a state that can't be read is written over: an "
    "erasure that it alone knew is not seen then. Set identity.secret: without it, an erasure of a user who had no "
    "version yet is not seen once the user came back."
)
IMPORT_EPILOG = """\
examples:
  corlld state import /backup/corlld
  corlld state import /backup/corlld --replace     over what is there
  corlld state import /backup/corlld ann           one user

The daemon learns again from the records that it has committed since the export
only if they are sent again: for a whole store, reset the group's offsets to
those of the export's time; events that a state knows are not applied twice.

The exit code is 65 if a state could not be copied. The others are in
`corlld --help`.
"""
