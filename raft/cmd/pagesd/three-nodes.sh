#!/usr/bin/env bash
# Starts three nodes of pagesd on this machine, with certificates of their own, and lets a client use them. It needs Go,
# and no root. At the end it stops the nodes and removes everything. "three-nodes.sh hold" leaves them running until
# Ctrl-C. PORT is the first of six ports of 127.0.0.1 [7101].
set -euo pipefail
cd "$(dirname "$0")"

port=${PORT:-7101}
dir=$(mktemp -d)
pids=()

# finish stops the nodes that run, and removes the directory.
finish() {
	local pid
	for pid in "${pids[@]}"; do
		kill "$pid" 2>/dev/null || true
	done
	for pid in "${pids[@]}"; do
		wait "$pid" || true
	done
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

go build -o "$dir/pagesd" .
pagesd() { "$dir/pagesd" "$@"; }

pagesd certs "$dir/certs" node:n1 node:n2 node:n3 client:me
addr() { echo "127.0.0.1:$((port + $1 - 1))"; }
all=$(addr 1),$(addr 2),$(addr 3)
client() { pagesd client -tls "$dir/certs/me" -timeout 60s -to "$@"; }

pagesd init -id n1 -dir "$dir/n1" -advertise "$(addr 1)" -log error
for i in 1 2 3; do
	join=()
	((i == 1)) || join=(-join "$(addr 1)")
	"$dir/pagesd" serve -id "n$i" -dir "$dir/n$i" -tls "$dir/certs/n$i" -listen "$(addr "$i")" \
		-monitor "127.0.0.1:$((port + i + 2))" "${join[@]}" 2>"$dir/n$i.log" &
	pids+=($!)
done

# members N waits until the cluster has N members.
members() {
	local n
	for ((n = 0; n < 600; n++)); do
		# The leader is named once more.
		[[ $(client "$all" status 2>/dev/null | grep -c '"voter": true') -gt $1 ]] && return 0
		sleep 0.1
	done
	echo "there are not $1 members after a minute:"
	tail -n 5 "$dir"/n?.log
	return 1
}
members 3
echo 'three nodes are members of the cluster:'
client "$all" status

echo 'a change at the first node:'
client "$(addr 1)" put greeting 'Hello'
echo 'another one at the second, which is appended to the page:'
client "$(addr 2)" link greeting ', world'
echo 'the page at the third:'
client "$(addr 3)" get greeting
echo
leader=$(client "$all" transfer | sed -n '/"leader"/,/}/s/.*"id": "\(.*\)".*/\1/p')
echo "$leader leads after a transfer. Now that node is killed:"
kill -9 "${pids[${leader#n} - 1]}"
client "$all" link greeting '!'
client "$all" get greeting
echo

if [[ ${1:-} == hold ]]; then
	echo "$dir/pagesd client -tls $dir/certs/me -to $all …"
	echo 'Ctrl-C ends the nodes.'
	wait
	exit
fi

failed=0
for i in 1 2 3; do
	[[ n$i == "$leader" ]] && continue
	kill "${pids[i - 1]}"
	wait "${pids[i - 1]}" || failed=1
done
((failed == 0)) || { echo 'a node did not stop in order:'; tail -n 5 "$dir"/n?.log; exit 1; }
echo 'all three nodes have stopped'
