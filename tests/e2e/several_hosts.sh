#!/usr/bin/env bash
# several_hosts.sh AQ-DIST SOURCE-TREE: the program on two hosts that are network namespaces of this
# machine, each with its own network, host name, /tmp and /dev/shm. Needs root; leaves with 77 (skipped)
# where it cannot be done. Ends what it started.
set -uo pipefail

program=$(realpath "$1") source=$(realpath "$2")
id=aqt$$
work=$(mktemp -d "${AQ_SHARED_DIRECTORY:-/var/tmp}/aq-several-hosts.XXXXXX")

patience=600  # seconds for any one step; a limit, never a wait

skip() { echo "skipped: $*"; exit 77; }
fail() { echo "FAILED: $*"; tail -n 30 "$work"/*.log; exit 1; }

for command in ip nsenter unshare mpirun timeout; do
  command -v "$command" >/dev/null || skip "no $command"
done
[ "$(id -u)" -eq 0 ] || skip "network namespaces need root"

end_host() {
  local pid
  for pid in $(ip netns pids "$id-$1" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null; done
}
# shellcheck disable=SC2317  # reached by the trap
clean() {
  for host in 1 2; do end_host "$host"; done
  for host in 1 2; do ip netns del "$id-$host" 2>/dev/null; done
  rm -rf "$work"
}
trap clean EXIT

# -- two hosts and a cable
for host in 1 2; do ip netns add "$id-$host" 2>"$work/up.log" || skip "no network namespaces: $(cat "$work/up.log")"; done
ip link add name eth0 netns "$id-1" type veth peer name eth0 netns "$id-2" 2>"$work/up.log" ||
  skip "no virtual cable: $(cat "$work/up.log")"
for host in 1 2; do
  ip -n "$id-$host" link set lo up
  ip -n "$id-$host" addr add "10.99.7.$host/24" dev eth0
  ip -n "$id-$host" link set eth0 up
  echo "10.99.7.$host $id-$host" >>"$work/hosts"
done

# on HOST COMMAND...: in its network, with names and scratch directories of its own
cat >"$work/on" <<ON
#!/bin/bash
host=\$1; shift
exec nsenter --net="/run/netns/$id-\$host" unshare --mount --uts bash -c '
  hostname "$id-\$1"; shift
  mount -t tmpfs none /dev/shm; mount -t tmpfs none /tmp; mount --bind "$work/hosts" /etc/hosts
  cd "$work" && exec "\$@"' _ "\$host" "\$@"
ON
# What mpirun calls instead of ssh.
# shellcheck disable=SC2016
printf '#!/bin/bash\nhost=${1##*-}; shift\nexec %s/on "$host" bash -c "$*"\n' "$work" >"$work/rsh"
chmod +x "$work/on" "$work/rsh"
"$work/on" 1 true 2>"$work/up.log" || skip "no mount or UTS namespaces: $(cat "$work/up.log")"

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_WAIT_POLICY=passive
arguments=(quantize --model "$source/examples/olmoe-tiny" --config "$source/configs/gptq_example.json"
  --calib "$source/examples/calibration.h5" --threads 1)

# launch HOSTS RUN [OPTION...]: one rank a host, started on the first one
launch() {
  local hosts=$1 run=$2
  shift 2
  timeout --kill-after=5 "$patience" "$work/on" 1 mpirun --host "$hosts" --oversubscribe --bind-to none \
    --mca plm_rsh_agent "$work/rsh" --mca oob_tcp_if_include 10.99.7.0/24 --mca btl_tcp_if_include 10.99.7.0/24 \
    --mca pml ob1 --mca btl tcp,vader,self --mca btl_vader_single_copy_mechanism none --mca mpi_yield_when_idle 1 \
    --mca oob_tcp_keepalive_time 5 --mca oob_tcp_keepalive_intvl 2 --mca oob_tcp_keepalive_probes 3 \
    -x OMP_WAIT_POLICY "$program" "${arguments[@]}" --save "$work/$run" "$@" >>"$work/$run.log" 2>&1
}
both="$id-1:1,$id-2:1"
same() { cmp "$work/one/model.h5" "$work/$1/model.h5" && cmp "$work/one/quant_log.csv" "$work/$1/quant_log.csv"; }
# Complete layers, from the run's own file: the output comes through mpirun and may be late.
layers() { grep -Eso '"layer": [0-9]+' "$work/$1/status.json" | grep -Eo '[0-9]+' || echo 0; }
rank_of() {
  local pid
  for pid in $(ip netns pids "$id-$1" 2>/dev/null); do
    if [ "/proc/$pid/exe" -ef "$program" ]; then echo "$pid"; fi
  done
}

# hold RUN [OPTION...]: starts RUN on both hosts and suspends its rank on the second one after the first or
# second of four layers. Until $held is continued the job ($job) can finish no layer but the one in work, on
# a machine of any speed; its first rank lives, waits, and counts on in the lock.
hold() {
  local run=$1 try deadline
  shift
  for try in 1 2 3 4 5; do
    rm -rf "${work:?}/$run" "$work/$run.log"
    launch "$both" "$run" "$@" 2>>"$work/$run.log" &  # with what bash says of a killed mpirun
    job=$!
    deadline=$((SECONDS + patience))
    while (($(layers "$run") < 1 && SECONDS < deadline)) && kill -0 "$job" 2>/dev/null; do sleep 0.01; done
    (($(layers "$run") >= 1)) || fail "$run: layer 1 was not reached"
    held=$(rank_of 2)
    if [ -n "$held" ] && kill -STOP "$held" 2>/dev/null && (($(layers "$run") <= 2)); then return; fi
    # It was too fast for this script: once more.
    echo "$run: suspended too late, try $try"
    if [ -n "$held" ]; then kill -CONT "$held" 2>/dev/null; fi
    wait "$job"
  done
  fail "$run: could not be suspended in mid-run"
}

# -- the same bytes as on one host
SECONDS=0
"$program" "${arguments[@]}" --save "$work/one" >"$work/one.log" 2>&1 || fail "one host"
# For a slow or loaded machine: what this one needs for the run is the unit of the limits below.
unit=$((SECONDS + 1))
launch "$both" two || fail "two hosts"
same two || fail "two hosts: other bytes"
echo "two hosts: the same bytes [$SECONDS s]"

# -- a second job on the same run, from the other host, while the first one cannot end
hold first
"$work/on" 2 timeout "$patience" "$program" "${arguments[@]}" --save "$work/first" >"$work/second.log" 2>&1
code=$?
kill -0 "$job" || fail "the first job did not outlive the second one"
if (($(layers first) >= 4)); then fail "the first job went on without its second rank"; fi
((code == 3)) || fail "the second job ended with $code instead of 3"
grep -q "another job is at work on it: process .* on $id-1" "$work/second.log" || fail "second job: no reason"
kill -CONT "$held" || fail "the suspended rank is gone"
echo "second job from the other host: refused [$SECONDS s]"
wait "$job" || fail "the first job was disturbed"
same first || fail "first job: other bytes"
echo "first job: went on to the same bytes [$SECONDS s]"

# -- the link is cut while layers are left
stall=$((4 + unit / 4))
hold cut --stall-timeout "$stall"
ip -n "$id-2" link set eth0 down
kill -CONT "$held" || fail "the suspended rank is gone"
cut_at=$SECONDS
wait "$job" && fail "the run does not notice the cut"
((SECONDS - cut_at < 40 + 4 * unit)) || fail "the cut was noticed after $((SECONDS - cut_at)) s"
grep -Eq "wait for other ranks: .*layer|lost communication" "$work/cut.log" || fail "the cut: no message"
if "$program" status "$work/cut" >"$work/status.log"; then fail "status says done"; fi
end_host 2
ip -n "$id-2" link set eth0 up
message=$(grep -Eo 'wait for other ranks: .{60}|lost communication' "$work/cut.log" | head -n 1)
echo "link cut: ended after $((SECONDS - cut_at)) s: $message"
launch "$both" cut --resume require || fail "resume"
grep -q "^layer 1/.*from disk" "$work/cut.log" || fail "resume: layer 1 was done again"
same cut || fail "resumed: other bytes"
echo "resumed: the same bytes [$SECONDS s]"
