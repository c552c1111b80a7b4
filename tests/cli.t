#!/bin/sh
# The command line: flags, settings, exit codes, and what each command prints. A user's mistakes are explained
# in one line that says what to do.
. "$(dirname "$0")/tap.sh"
tap_begin
cd "$work" || exit 1

model=$root/models/hippocampus
archive=$root/demo/archive
scan=$archive/imagesTr/hippocampus_008.nii.gz
lines() { wc -l <"$1" | tr -d ' '; }

# holds NAME 'PYTHON EXPRESSION of d' [FILE]: the file ($work/out) is JSON for which that is true.
holds()
{
    ok "$1" "$PYTHON" -c 'import json, sys
d = json.load(open(sys.argv[2]))
sys.exit(0 if eval("(" + sys.argv[1] + ")") else str(d))' "$2" "${3:-$work/out}"
}

# complains NAME CODE TEXT COMMAND...: nothing on stdout, one line on stderr that holds the text.
complains()
{
    cli_name=$1 cli_code=$2 cli_text=$3
    shift 3
    exits "$cli_name" "$cli_code" "$@"
    is "$cli_name: one line, on stderr" "$(lines "$work/out") $(lines "$work/err")" "0 1"
    says "$cli_name: says what" "$cli_text" "$work/err"
}

# ---- help, version, words that are not understood ----

for command in scan run status report retry verify export infer evaluate forward prepare plan bench doctor; do
    exits "$command --help" 0 "$NOC" "$command" --help
    says "$command --help: usage" "usage: nocturne $command"
    for flag in --catalog --results --model --device --precision --threads --memory --config --log-level --log-format; do
        grep -q -- "$flag " out || fail "$command --help names $flag" out
    done
    complains "$command --nonsense" 64 "see nocturne $command --help" "$NOC" "$command" --nonsense
    exits "help of all names $command" 0 sh -c "\"\$NOC\" --help | grep -q '^  nocturne $command '"
done
for word in --help -h help; do
    exits "$word" 0 "$NOC" $word
    is "$word: stderr is empty" "$(lines err)" 0
done
exits "no command" 64 "$NOC"
is "no command: the usage goes to stderr" "$(lines out) $(grep -c 'nocturne scan DIR' err)" "0 2"
exits "help COMMAND" 0 "$NOC" help retry
says "help COMMAND: of that command" "usage: nocturne retry"
complains "a misspelt command" 64 "did you mean run?" "$NOC" rnu
complains "a flag before the command" 64 "the command comes first" "$NOC" -m M run
complains "a misspelt flag" 64 "did you mean --model?" "$NOC" run --modle M
complains "--quiet" 64 "--log-level error" "$NOC" run --quiet

for word in --version -V version; do
    exits "$word" 0 "$NOC" $word
    says "$word: version" "nocturne $(cat "$root/VERSION") ("
done
for part in 'cuda ' 'avx2, portable' 'Open MPI' 'hdf5 ' 'sqlite '; do
    says "--version: $part" "$part"
done

# ---- missing arguments, bad values ----

complains "scan without a folder" 64 "scan what?" "$NOC" scan
complains "run without a model" 64 "-m" "$NOC" run
complains "run with an argument" 64 "nocturne scan takes" "$NOC" run "$archive"
complains "status with an argument" 64 "no arguments" "$NOC" status now
complains "plan without a model" 64 "-m" "$NOC" plan
complains "infer without an output" 64 "--output" "$NOC" infer -m "$model" "$scan"
complains "infer without a scan" 64 "which scan?" "$NOC" infer -m "$model" -o m.nii.gz
complains "infer to a file that is no NIfTI" 64 ".nii.gz" "$NOC" infer -m "$model" -o m.png "$scan"
complains "infer without a model" 64 "-m" "$NOC" infer -o m.nii.gz "$scan"
complains "forward without an input" 64 "--input" "$NOC" forward -m "$model" --output l.safetensors
complains "prepare without an output" 64 "--output" "$NOC" prepare -m "$model" "$scan"
complains "export without a folder" 64 "--output" "$NOC" export
complains "bench of nothing" 64 "engine, pipeline or schedule" "$NOC" bench
complains "bench pipeline without scans" 64 "which scans?" "$NOC" bench pipeline -m "$model"
complains "retry of an unknown type" 64 "--type" "$NOC" retry --type bad
complains "report --csv --json" 64 "not both" "$NOC" report --csv --json
complains "a flag without its value" 64 "needs a value" "$NOC" run --model
complains "a value for a flag without" 64 "takes no value" "$NOC" run --dry-run=1
while read -r flag value text; do
    complains "$flag $value" 64 "$text" "$NOC" run -m "$model" "$flag" "$value"
done <<END
--memory lots 2GiB
--window 24,32 D,H,W
--window 0,32,24 between
--overlap 1 within
--blend soft constant|gaussian
--mirror zyx z,y,x
--device gpu cuda:N
--precision f64 f32|bf16|f16|auto
--until 24:61 HH:MM
--threads two integer
--attempts 0 within
--log-format xml text|json
--isa sse avx2
--progress bar none
END

# ---- what is not there ----

for command in status report retry verify "export -o masks" "run -m $model" "run -m $model --dry-run"; do
    # shellcheck disable=SC2086
    complains "$command without a catalog" 66 "nocturne scan" "$NOC" $command --catalog none.sqlite
done
complains "a folder that is not there" 66 "No such file" "$NOC" scan nowhere
complains "a model that is not there" 66 "no such model" "$NOC" plan -m nowhere
complains "a scan that is not there" 66 "No such file" "$NOC" infer -m "$model" -o m.nii.gz nowhere.nii.gz
complains "a tensor that is not there" 66 "No such file" "$NOC" forward -m "$model" --input x --output y
complains "a configuration that is not there" 66 "No such file" "$NOC" status -c nowhere.yaml
mkdir empty
complains "a folder with nothing in it" 65 "dataset.json" "$NOC" scan empty
is "none of that makes a catalog" "$(ls ./*.sqlite 2>/dev/null)" ""
cp -R "$model" other && chmod -R u+w other
sed -i 's/num_classes: 3/num_classes: 4/; s/- {index: 2/- {index: 3, name: X}\n    - {index: 2/' other/model.yaml
complains "weights that do not fit" 65 "does not fit" "$NOC" plan -m other
echo 'familly: segformer3d' >>other/model.yaml
complains "an unknown key of a manifest" 78 "did you mean" "$NOC" plan -m other
says "... with file and line" "other/model.yaml:$(lines other/model.yaml): " err

# ---- configuration ----

# wrong LINE TEXT CONTENT
wrong()
{
    printf '%b' "$3" >c.yaml
    complains "configuration: $2" 78 "$2" "$NOC" status -c c.yaml
    says "configuration: $2: file and line" "c.yaml:$1: " err
}
wrong 2 'did you mean "threads"' 'log_level: info\nthread: 1\n'
wrong 1 integer 'threads: two\n'
wrong 3 'in line 1' 'threads: 1\nbatch: 2\nthreads: 1\n'
wrong 2 "expected" 'threads: [1\n'
wrong 1 '3 numbers' 'window: [8, 8]\n'
wrong 1 'true or false' 'assume_ras: maybe\n'
wrong 1 'cuda:N' 'device: gpu\n'
wrong 1 'HH:MM' 'until: noon\n'
exits "--default-config" 0 "$NOC" --default-config
ok "--default-config is configs/default.yaml" cmp out "$root/configs/default.yaml"
complains "... and is understood" 66 "no catalog" "$NOC" status -c "$root/configs/default.yaml"

# ---- a small archive: one scan with a truth, one without, one damaged ----

head -c 20000 "$scan" >damaged.nii.gz
cat >list.csv <<END
key,image,truth
scored,$archive/imagesTr/hippocampus_015.nii.gz,$archive/labelsTr/hippocampus_015.nii.gz
plain,$scan,
damaged,damaged.nii.gz,
END
exits "scan of a list" 0 "$NOC" scan list.csv
says "scan says what it found" "3 studies: 3 added"
exits "scan again" 0 "$NOC" scan --json list.csv
holds "... changes nothing" 'd["studies"] == 3 and d["unchanged"] == 3 and d["added"] == 0'

exits "run --dry-run" 0 "$NOC" run -m "$model" --dry-run --json
holds "... counts" 'd["studies"] == 3 and d["windows"] == 3 and d["hours"] > 0'
printf 'window: [24, 32, 24]\noverlap: 0.5\n' >c.yaml
exits "settings of a file" 0 "$NOC" run -m "$model" --dry-run --json -c c.yaml
holds "... count" 'd["windows"] > 20'
exits "flags override them" 0 "$NOC" run -m "$model" --dry-run --json -c c.yaml --window 48,64,48
holds "... in any order" 'd["windows"] == 3'
exits "nothing was done" 0 "$NOC" status --json
holds "status --json, before" 'd["studies"]["pending"] == 3 and d["failures"] == {} and d["seconds_left"] is None'

# No GPU can be seen, whatever was built.
export CUDA_VISIBLE_DEVICES=
complains "--device cuda" 69 "CUDA" "$NOC" infer -m "$model" -o m.nii.gz --device cuda "$scan"
exits "a run on CUDA" 69 "$NOC" run -m "$model" --device cuda
says "... says why not" "CUDA" err
exits "a run without mpirun" 69 env PATH=/nonexistent "$NOC" run -m "$model"
says "... says what to do" "--ranks 1" err
exits "a catalog that cannot be made" 73 "$NOC" scan --catalog nowhere/c.sqlite list.csv

for memory in 1536MiB 2GiB 2147483648; do
    exits "--memory $memory" 0 "$NOC" infer -m "$model" -o m.nii.gz --memory "$memory" --device auto "$scan"
done

exits "run, a failed study" 1 "$NOC" run -m "$model" --log-format json --log-level debug --precision f16
is "run says nothing on stdout" "$(lines out)" 0
ok "each line of the log is JSON" "$PYTHON" - err <<'END'
import json, re, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", l["time"]) for l in lines)
assert all(l["level"] in ("error", "warn", "info", "debug") for l in lines)
assert any(l.get("rank") == 0 for l in lines)
said = [l["message"] for l in lines]
assert any("damaged failed: unreadable" in m for m in said), said
assert any("f16" in m and "computes f32" in m for m in said), said
assert any("1 failed" in m for m in said), said
END
is "the log names keys, not paths" "$(grep -c "$archive\|$work\|nii" err)" 0

exits "run again: nothing left but the failure" 1 "$NOC" run -m "$model" --ranks 1 --log-level error
is "--log-level error: nothing to say" "$(lines out) $(lines err)" "0 0"

exits "status --json" 0 "$NOC" status --json
holds "status --json is what it should be" '
    list(d) == ["studies", "failures", "studies_per_hour", "seconds_left"] and
    d["studies"] == {"pending": 0, "running": 0, "written": 0, "done": 2, "failed": 1, "quarantined": 0} and
    list(d["studies"]) == ["pending", "running", "written", "done", "failed", "quarantined"] and
    d["failures"] == {"unreadable": 1} and d["studies_per_hour"] > 0 and d["seconds_left"] == 0'
exits "status" 0 "$NOC" status
says "status tells failures" "unreadable"
exits "status --watch with nothing left" 0 "$NOC" status --watch

exits "report --csv" 0 "$NOC" report --csv
ok "report --csv has its columns and rows" "$PYTHON" - out <<'END'
import csv, sys
rows = list(csv.reader(open(sys.argv[1])))
assert rows[0] == ("key,state,failure,label,name,tp,fp,fn,tn,dice,iou,precision,recall,truth_ml,prediction_ml,"
                   "volume_similarity").split(","), rows[0]
assert all(len(row) == len(rows[0]) for row in rows), rows
of = lambda key: [row for row in rows if row[0] == key]
assert of("damaged") == [["damaged", "failed", "unreadable"] + [""] * 13], of("damaged")
assert [row[3:5] for row in of("plain")] == [["1", "Anterior"], ["2", "Posterior"]]
assert all(row[1:3] == ["done", ""] and row[5:14] == [""] * 9 and row[15] == "" for row in of("plain"))
assert [row[3:5] for row in of("scored")] == [["1", "Anterior"], ["2", "Posterior"]]
for row in of("scored"):
    tp, fp, fn, tn = map(int, row[5:9])
    assert abs(float(row[9]) - 2 * tp / (2 * tp + fp + fn)) < 1e-8
    assert all(len(ratio.replace(".", "").lstrip("0")) >= 6 for ratio in row[9:]), row
assert len(rows) == 6
END
exits "report --json" 0 "$NOC" report --json
holds "report --json" 'len(d["results"]) == 5 and set(d["means"]) == {"1", "2"} and
    [r["sentence"] for r in d["results"] if r["key"] == "damaged"][0].endswith("cut short") and
    d["means"]["1"]["studies"] == 1'
exits "report" 0 "$NOC" report
says "report tells failures" "damaged                          failed, unreadable:"
exits "report --only" 0 "$NOC" report --csv --only 'pl*'
is "... those alone" "$(cut -d, -f1 out | sort -u | tr '\n' ' ')" "key plain "
exits "stdout that takes nothing" 74 sh -c '"$NOC" report --csv >/dev/full'
exits "... nor --help" 74 sh -c '"$NOC" --help >/dev/full'

exits "verify" 0 "$NOC" verify
says "verify" "verified 2 masks in 1 parts: all good"
exits "export" 0 "$NOC" export --format plain -o masks
is "export: a file a study" "$(cd masks && echo *)" "plain.nii.gz scored.nii.gz"
exits "infer" 0 "$NOC" infer -m "$model" -o m.nii.gz --json "$scan"
holds "infer --json" 'd["windows"] == 1 and [l["label"] for l in d["labels"]] == [1, 2]'
ok "infer gives what run and export give" cmp m.nii.gz masks/plain.nii.gz
exits "export of what is not there" 66 "$NOC" export -o masks --only 'x*'
exits "export to a file" 73 "$NOC" export -o list.csv
complains "export to another format" 64 "plain|nnunet|bids" "$NOC" export --format dicom -o masks
exits "infer to nowhere" 73 "$NOC" infer -m "$model" -o nowhere/m.nii.gz "$scan"

exits "retry --type, none of it" 0 "$NOC" retry --type timeout
says "... says so" "0 studies put back"
exits "retry" 0 "$NOC" retry --json
holds "... says how many" 'd == {"retried": 1}'
exits "status after retry" 0 "$NOC" status --json
holds "... pending again" 'd["studies"]["pending"] == 1 and d["studies"]["failed"] == 0 and d["failures"] == {}'

# ---- one scan of two channels; tensors; plan; bench; doctor ----

cp -R "$root/tests/data/models/tiny" two && chmod -R u+w two
sed -i "s|^weights:.*|weights: $root/tests/data/golden/tiny_weights.safetensors|" two/model.yaml
"$PYTHON" - <<'END'
import nibabel, numpy
both = numpy.random.default_rng(1).integers(0, 900, (32, 32, 32, 2)).astype("i2")
for name, data in (("a", both[..., 0]), ("b", both[..., 1]), ("both", both)):
    nibabel.save(nibabel.Nifti1Image(data, numpy.eye(4)), name + ".nii.gz")
END
exits "infer of two channels" 0 "$NOC" infer -m two -o ab.nii.gz a.nii.gz b.nii.gz
exits "... in the other order" 0 "$NOC" infer -m two -o ba.nii.gz b.nii.gz a.nii.gz
is "... is another mask" "$(cmp -s ab.nii.gz ba.nii.gz; echo $?)" 1
printf 'key,image,truth\npair,a.nii.gz;b.nii.gz,\nfour,both.nii.gz,\n' >two.csv
exits "a list of two channels, and of a 4-D file" 0 "$NOC" scan --catalog two.sqlite two.csv
exits "... run" 0 "$NOC" run -m two --catalog two.sqlite --results two-results --ranks 1
exits "... exported" 0 "$NOC" export --catalog two.sqlite --results two-results -o two-masks
ok "... are what infer gives" cmp two-masks/pair.nii.gz ab.nii.gz
ok "... either way" "$PYTHON" -c 'import nibabel, numpy
pair, four = (numpy.asarray(nibabel.load("two-masks/" + n + ".nii.gz").dataobj) for n in ("pair", "four"))
assert pair.any() and (pair == four).all()'
complains "infer of one of two channels" 65 "the model takes 2" "$NOC" infer -m two -o m.nii.gz a.nii.gz
exits "prepare" 0 "$NOC" prepare -m two --output p.safetensors a.nii.gz b.nii.gz
exits "forward" 0 "$NOC" forward -m two --input p.safetensors --output l.safetensors
exits "plan" 0 "$NOC" plan -m two
for word in GMAC 'weight B' 'output B' 'shape (D,H,W,C)' 'embed1.conv' 'total: '; do says "plan: $word" "$word"; done
exits "plan --json" 0 "$NOC" plan -m two --json
holds "plan --json" 'sum(o["macs"] for o in d["ops"]) == d["macs"] and d["arena_bytes"] > 0 and
    all(len(o["shape"]) == 4 and o["output_bytes"] > 0 for o in d["ops"])'
exits "bench engine --json" 0 "$NOC" bench engine -m two --json --repeats 2
holds "bench engine --json: its keys" 'set(d) == {"seconds_per_window", "median_seconds_per_window", "windows",
    "mean_seconds_per_window", "network_seconds_per_window", "network_median_seconds_per_window", "batch", "views", "shape", "device",
    "precision", "isa", "threads", "arena_bytes", "scratch_bytes", "weight_bytes"} and d["device"] == "cpu" and
    d["batch"] == 1 and d["windows"] == 2 and 0 < d["network_seconds_per_window"] <= d["seconds_per_window"] + 1e-6 and
    d["network_seconds_per_window"] <= d["network_median_seconds_per_window"] <= d["median_seconds_per_window"] + 1e-6 and
    len(d["shape"]) == 4 and d["arena_bytes"] > 0 and d["scratch_bytes"] > 0 and d["weight_bytes"] > 0'
"$NOC" plan -m two --json >plan.json
for precision in f32 auto; do
    exits "bench engine --profile --json, $precision" 0 "$NOC" bench engine -m two --json --profile --repeats 2 \
        --precision $precision
    holds "... shares, and steps that add up" 'all(v > 0 for v in d["limits"].values()) and len(d["limits"]) == 3 and
        all(s["seconds"] > 0 and s["bytes"] > 0 and s["share_of_limit"] > 0 and s["limit"] in ("flop", "bytes") and
            len(s["shape"]) == 4 and s["ops"] for s in d["steps"]) and
        [o for s in d["steps"] for o in s["ops"]] == [o["op"] for o in json.load(open("plan.json"))["ops"]] and
        sum(s["macs"] for s in d["steps"]) == json.load(open("plan.json"))["macs"] and d["rest_seconds"] > 0 and
        abs(sum(s["seconds"] for s in d["steps"]) + d["rest_seconds"] - d["mean_seconds_per_window"]) < 1e-6'
done
exits "bench engine --profile" 0 "$NOC" bench engine -m two --profile --repeats 1
for word in 'limits measured' 'GFLOP/s' 'GB/s' 'all steps' ' attention'; do says "profile: $word" "$word"; done
exits "bench schedule" 0 "$NOC" bench schedule --workers 8 --limit 400 --json
ok "bench schedule: no end before the bound, few of them far behind it" "$PYTHON" - "$work/out" <<'EOF'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
assert [(r["archive"], r["faults"]) for r in rows] == [("mixed", False), ("mixed", True), ("brains", False), ("brains", True)], rows
assert all(r["workers"] == 8 and r["studies"] == 400 and r["makespan_s"] >= r["bound_s"] > 0 for r in rows), rows
assert all(r["over_percent"] < 2 for r in rows), rows
EOF
exits "bench pipeline --json" 0 "$NOC" bench pipeline -m "$model" --workers 1 --json list.csv
holds "bench pipeline --json" 'd["workers"] == 1 and d["studies"] == 2 and d["studies_per_hour"] > 0'
exits "doctor" 0 "$NOC" doctor
ok "doctor: no CUDA" grep -q '^- *cuda .*CUDA' out
exits "doctor without mpirun" 69 env PATH=/nonexistent "$NOC" doctor
exits "doctor --json" 69 env PATH=/nonexistent "$NOC" doctor --json
holds "doctor --json" 'd["cpu"]["ok"] and not d["mpi"]["ok"] and d["hdf5"]["ok"] and
    "domains" in d["numa"]["text"]'
case ${SAN-} in
*address* | *thread*) skip "memory that is not there" "the sanitizer needs it all" ;;
*) exits "memory that is not there" 70 sh -c 'ulimit -v 500000; "$NOC" bench engine -m two --window 320,320,320' ;;
esac

# ---- a terminal, signals, damage ----

ok "no colours, on a terminal either" "$PYTHON" - <<'END'
import os, pty, re
said = b""
def read(fd):
    global said
    data = os.read(fd, 4096)
    said += data
    return data
os.environ["NO_COLOR"] = "1"
for command in (["run", "-m", os.environ["root"] + "/models/hippocampus"], ["status"]):
    pty.spawn([os.environ["NOC"], *command], read)
assert b"unreadable" in said, said
assert not re.search(rb"\x1b\[[0-9;]*m", said), said
END

ok "status --watch ends by SIGINT, or with the work" "$PYTHON" - <<'END'
import os, signal, subprocess
noc, model = os.environ["NOC"], os.environ["root"] + "/models/hippocampus"
call = lambda *words: subprocess.run([noc, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
default = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) # what starts tests in the background ignores it
watch = lambda: subprocess.Popen([noc, "status", "--watch", "--json"], stdout=subprocess.PIPE, preexec_fn=default)
assert call("retry") == 0
first = watch()
assert b'"pending":1' in first.stdout.readline()
first.send_signal(signal.SIGINT)
assert first.wait(60) == -signal.SIGINT
second = watch()
second.stdout.readline()
assert call("run", "-m", model, "--ranks", "1") == 1
last = second.communicate(timeout=60)[0].splitlines()
assert second.returncode == 0
END

exits "scan of more" 0 "$NOC" scan --catalog more.sqlite "$archive"
ok "run stopped by SIGTERM ends with 75" "$PYTHON" - <<'END'
import os, signal, subprocess
run = subprocess.Popen([os.environ["NOC"], "run", "-m", os.environ["root"] + "/models/hippocampus", "--catalog",
                        "more.sqlite", "--results", "more", "--window", "16,16,16", "--overlap", "0.8", "--log-format",
                        "json", "--progress", "line"], stderr=subprocess.PIPE, text=True)
line = run.stderr.readline()
assert "of 16 done" in line, line
run.terminate()
said = run.communicate(timeout=300)[1]
assert run.returncode == 75, (run.returncode, said)
assert "the same command goes on" in said, said
END
exits "status after that" 0 "$NOC" status --json --catalog more.sqlite --results more
holds "... work is left" 'd["studies"]["pending"] > 0 and d["studies"]["running"] == d["studies"]["written"] == 0'
complains "the same results with another window" 78 "results" "$NOC" run -m "$model" --catalog more.sqlite --results more

# A catalog of another schema, another program's file, and none that can be opened: each says what helps.
refused_by()
{
    odd=$1 code=$2 helps=$3
    complains "status, $odd" "$code" "$helps" "$NOC" status --catalog odd.sqlite
    complains "scan, $odd" "$code" "$helps" "$NOC" scan --catalog odd.sqlite list.csv
    exits "run, $odd" "$code" "$NOC" run -m "$model" --ranks 1 --catalog odd.sqlite --results odd
    says "run, $odd: says what helps" "$helps" err
}
cp more.sqlite odd.sqlite
sqlite3 odd.sqlite "PRAGMA user_version = 3"
refused_by "a newer catalog" 65 "use that version"
sqlite3 odd.sqlite "PRAGMA user_version = 0"
refused_by "a catalog whose version was changed" 65 "a new catalog"
rm odd.sqlite && sqlite3 odd.sqlite "CREATE TABLE study (id INTEGER)"
refused_by "another program's database" 65 "another file by --catalog"
ln -s nowhere more.sqlite-shm
exits "run, a catalog whose -shm cannot be made" 73 "$NOC" run -m "$model" --ranks 1 \
    --catalog more.sqlite --results more
says "... names it" "more.sqlite: unable to open" err
rm more.sqlite-shm

head -c 1000 results/part-000001.h5 >short && cat short >results/part-000001.h5
exits "verify of a damaged part" 69 "$NOC" verify
says "verify names it" "damage: part-000001.h5"
tap_end
