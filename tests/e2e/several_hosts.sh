#!/usr/bin/env bash
# several_hosts.sh AQ-DIST SOURCE-TREE: the program on two hosts that are network namespaces of this
# machine, each with its own network, host name, /tmp and /dev/shm. Needs root; leaves with 77 (skipped)
# where it cannot be done. Ends what it started.
set -uo pipefail

program=$(realpath "$1") source=$(realpath "$2")
id=aqt$$
work=$(mktemp -d "${AQ_SHARED_DIRECTORY:-/var/tmp}/aq-several-hosts.XXXXXX")

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
  timeout --kill-after=5 60 "$work/on" 1 mpirun --host "$hosts" --oversubscribe --bind-to none \
    --mca plm_rsh_agent "$work/rsh" --mca oob_tcp_if_include 10.99.7.0/24 --mca btl_tcp_if_include 10.99.7.0/24 \
    --mca pml ob1 --mca btl tcp,vader,self --mca btl_vader_single_copy_mechanism none --mca mpi_yield_when_idle 1 \
    --mca oob_tcp_keepalive_time 5 --mca oob_tcp_keepalive_intvl 2 --mca oob_tcp_keepalive_probes 3 \
    -x OMP_WAIT_POLICY "$program" "${arguments[@]}" --save "$work/$run" "$@" >>"$work/$run.log" 2>&1
}
both="$id-1:1,$id-2:1"
same() { cmp "$work/one/model.h5" "$work/$1/model.h5" && cmp "$work/one/quant_log.csv" "$work/$1/quant_log.csv"; }
wait_for_layer() {
  for _ in {1..600}; do
    if grep -q "^layer $2/" "$work/$1.log" 2>/dev/null; then return; fi
    sleep 0.05
  done
  fail "$1: layer $2 was not reached"
}

# -- the same bytes as on one host
SECONDS=0
"$program" "${arguments[@]}" --save "$work/one" >"$work/one.log" 2>&1 || fail "one host"
launch "$both" two || fail "two hosts"
same two || fail "two hosts: other bytes"
echo "two hosts: the same bytes [$SECONDS s]"

# -- a second job on the same run, from the other host; then the link is cut
launch "$both" cut --stall-timeout 4 &
job=$!
wait_for_layer cut 1
"$work/on" 2 "$program" "${arguments[@]}" --save "$work/cut" >"$work/second.log" 2>&1 && fail "a second job was let in"
grep -q "another job is at work on it: process .* on $id-1" "$work/second.log" || fail "second job: no reason"
echo "second job from the other host: refused [$SECONDS s]"
wait "$job" || fail "the first job was disturbed"
same cut || fail "first job: other bytes"

rm -rf "$work/cut" "$work/cut.log"
launch "$both" cut --stall-timeout 4 &
job=$!
wait_for_layer cut 1
ip -n "$id-2" link set eth0 down
cut_at=$SECONDS
wait "$job" && fail "the run does not notice the cut"
((SECONDS - cut_at < 40)) || fail "the cut was noticed after $((SECONDS - cut_at)) s"
grep -Eq "wait for other ranks: .*layer|lost communication" "$work/cut.log" || fail "the cut: no message"
if "$program" status "$work/cut" >"$work/status.log"; then fail "status says done"; fi
end_host 2
ip -n "$id-2" link set eth0 up
echo "link cut: ended after $((SECONDS - cut_at)) s: $(grep -Eo 'wait for other ranks: .{60}|lost communication' "$work/cut.log" | head -n 1)"
launch "$both" cut --resume require || fail "resume"
same cut || fail "resumed: other bytes"
echo "resumed: the same bytes [$SECONDS s]"
