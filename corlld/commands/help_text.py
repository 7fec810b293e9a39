"""What `--help` says below a command's options: examples and exit codes. At most 80 columns: nothing wraps it."""

SEND_EPILOG = """\
Every line passes the decoder of the daemon before the first one is sent: it is
all or nothing, and a wrong line is named with its number, the reason and the
field. An event's key is its user_id in UTF-8, a user's events keep their order,
and all replicas acknowledge. CloudEvents in structured mode (JSON with
`specversion`) are sent as they are.

examples:
  corlld send --dry-run edits.jsonl      is every line an event?
  corlld send edits.jsonl                with /etc/corlld/corlld.toml
  zcat edits.jsonl.gz | corlld send -    a pipe is copied first (privately)
  CORLLD_KAFKA__BOOTSTRAP_SERVERS=broker:9092 corlld send edits.jsonl

exit codes:
  0    all events are acknowledged; with --dry-run: all are valid
  2    no such file, a folder, or a wrong command line
  65   a line is no event (nothing was sent), the file changed meanwhile, or a
       record is larger than the topic lets in
  69   no broker, no topic, or the broker stopped acknowledging
  73   the temporary copy of standard input can't be written
  78   wrong settings, or the broker refuses them
  130  interrupted: it says how many events were acknowledged
"""

CHECK_EPILOG = """\
examples:
  corlld check                  is all there that `corlld run` needs?
  corlld check --sample 1000    ... and is my producer right? Shares, reasons
                                and sizes, never a text or a user id

The exit code is that of the first problem (see `corlld --help`). A sample
where more than dead_letters.max_share would be dead letters, or not one record
is valid, is one: 65.
"""

BENCH_EPILOG = """\
The same pairs go through the learner, packed across users and one user at a
time, through a plain PEFT loop and through TRL's DPOTrainer, in turn, round
after round, once it was seen that all of them end with the same tensors. The
table and the JSON tell which bars hold; they are meant for two cores and the
demo's model. All figures take about an hour there, each by itself minutes.

examples:
  corlld bench --figures over_peft_fp32,packed_over_single --repeats 3
  corlld bench --edits edits.jsonl --json bench.json --plot bench.png
  corlld bench --kafka broker:9092        decode_share makes a topic, and
                                          removes it
"""

SIMULATE_EPILOG = """\
studies:
  theory          tables instead of a model: the classical bounds (a minute)
  language-world  a small transformer and users whose wishes are known, beside
                  other ways to learn from the same number of answers
  tastes          simulated users edit gemma3-270m's drafts (under an hour)
  real-edits      an archive, each edit judged before it is learnt from
  no-harm         what noise and hostile users do to an adapter

Each writes results.csv, pictures and summary.json, and can be cut off: the
same command goes on where it was.

examples:
  corlld simulate theory
  corlld simulate real-edits --edits edits.jsonl --folder real-edits
"""
