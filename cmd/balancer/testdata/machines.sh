# Three machines, $NET.1 to $NET.3, and what an operator has on each, below $ROOT/N: for the
# commands of doc/cluster.md. Both programs are real, and everything about them but their paths.

# translate rewrites the paths of a machine.
translate() { sed -e "s#/etc/\(etcd\|balancer\|default\)\b#$ROOT/$1/etc/\1#g" -e "s#/var/lib/#$ROOT/$1/var/lib/#g" -e "s#/usr/local/bin/#$ROOT/$1/bin/#g"; }

# ssh runs a command on a machine.
ssh() {
	local machine=${1##*.}
	shift
	(MACHINE=$machine; eval "$(printf '%q ' "$@" | translate "$machine")")
}

apt-get() { :; }

runuser() { shift 3; "$@"; }

# install makes directories, or a file of its standard input; all is ours.
install() {
	local target=${!#}
	case " $* " in
	*" -d "*) mkdir -p "$target" ;;
	*/bin/balancer*) cat > /dev/null ;;
	*)
		translate "$MACHINE" > "$target.new"
		chmod "$2" "$target.new"
		case $target in */balancer.toml) printf '\n[tor]\ncontrol = "unix:%s"\n' "$ROOT/$MACHINE/tor" >> "$target.new" ;; esac
		mv "$target.new" "$target"
		;;
	esac
}

running() { [ -e "/proc/$1" ] && ! grep -q '^State:.*Z' "/proc/$1/status"; }

# systemctl is for the units etcd and balancer.
systemctl() {
	local verb=$1 unit=${!#}
	local home=$ROOT/$MACHINE
	local pid
	pid=$(cat "$home/$unit.pid" 2> /dev/null) || true
	case $verb in
	stop | restart)
		if [ -n "$pid" ] && running "$pid"; then
			kill -TERM "$pid"
			while running "$pid"; do command sleep 0.1; done
		fi
		;;
	reload) kill -HUP "$pid" ;;
	esac
	case $verb in
	start | restart | enable)
		case $unit in
		etcd) set -a; . "$home/etc/default/etcd"; ETCD_LOGGER=zap; ETCD_BCRYPT_COST=4; set -a; "$ETCD" >> "$home/etcd.log" 2>&1 < /dev/null & ;;
		balancer) command balancer run --config "$home/etc/balancer/balancer.toml" >> "$home/balancer.log" 2>&1 < /dev/null & ;;
		esac
		echo $! > "$home/$unit.pid"
		;;
	esac
}

# patient runs a command until it succeeds, as somebody would who waits for it.
patient() {
	local try
	for try in $(seq 60); do
		if "$@" > "$ROOT/said" 2>&1; then cat "$ROOT/said"; return; fi
		command sleep 1
	done
	cat "$ROOT/said"
	return 1
}

etcdctl() {
	case "$1 ${2-}" in
	"endpoint health" | "member add") patient command etcdctl "$@" ;;
	*) command etcdctl "$@" ;;
	esac
}

balancer() {
	case "$1 ${2-}" in
	"cluster status" | "cluster restore") patient command balancer "$@" ;;
	"cluster forget") patient forgotten "$@" ;;
	"cluster key") case " $* " in *" drop "*) patient resealed ;; esac; command balancer "$@" ;;
	*) command balancer "$@" ;;
	esac
}

# resealed reports whether nothing is sealed with the old key any more.
resealed() {
	command balancer cluster status --config "$ROOT/1/etc/balancer/balancer.toml" > "$ROOT/status"
	! grep -q 'with the old key\|DO NOT OPEN' "$ROOT/status"
}

# forgotten has a manager forgotten that may be gone already.
forgotten() {
	command balancer "$@" > "$ROOT/forgotten" 2>&1 || grep "the cluster has no manager of this name" "$ROOT/forgotten"
}

sleep() { :; }
