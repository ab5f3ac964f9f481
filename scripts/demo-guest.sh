# Runs in the demo's guest where nobody can type: each command is shown, and then what it says.
set -x
uname -a
cat /sys/hypervisor/type /sys/hypervisor/guest_type /sys/hypervisor/uuid
cat /sys/hypervisor/version/major /sys/hypervisor/version/minor /sys/hypervisor/version/extra
cat /sys/hypervisor/properties/capabilities /sys/hypervisor/properties/virtual_start
cat /sys/devices/system/clocksource/clocksource0/current_clocksource
grep xen /proc/interrupts
dmesg > /tmp/dmesg
grep -i xen /tmp/dmesg
free -m
time sh -c 'for i in $(seq 200); do /bin/true; done'
