#!/bin/busybox sh
# The first process of the machine: makes it ready, runs /run-test, tells how that ended, and switches the machine off.
/bin/busybox mkdir -p /applets
/bin/busybox --install -s /applets
# Before busybox's own: its ip and tc are not those that the tests call.
export PATH=/bin:/applets
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
mkdir -p /dev/net /tmp
for module in /modules/*; do
  insmod "$module" || echo "the module $module is refused" >&2
done
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
ip link set lo up
# What the test program says goes to a line of its own, untouched: the console has the kernel's messages.
stty -F /dev/ttyS1 raw -echo
/bin/sh /run-test >/dev/ttyS1 2>&1
printf '\nthe test program ended: %s\n' $? >/dev/ttyS1
poweroff -f
