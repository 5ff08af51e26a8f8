#!/bin/bash
# Run a statically linked program on a processor with AVX-512 that Bochs emulates:
#
#   KERNEL=vmlinuz avx512.sh PROGRAM [ARGUMENT...]
#
# The kernel is any Linux with a serial console. It boots from a CD with the program in its initial
# file system; the program's output is the serial line's, and so is the status this exits with.
# CPU names another model of `bochs --help cpu`. Debian's packages: bochs bochsbios vgabios isolinux
# syslinux-common xorriso busybox-static cpio.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{root/bin,cd}
cp /bin/busybox "$work/root/bin/"
cp "$1" "$work/root/program"
shift
cat > "$work/root/init" <<END
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /tmp /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
export PROPTEST_CASES=${PROPTEST_CASES:-4}
/program$(printf ' %q' "$@")
echo "exit status \$?"
/bin/busybox sleep 3
/bin/busybox poweroff -f
END
chmod +x "$work/root/init"
(cd "$work/root" && find . | cpio --quiet -o -H newc | gzip -1) > "$work/cd/initrd"
cp "$KERNEL" "$work/cd/kernel"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/cd/"
# Bochs 2.7 lays the state of protection keys out as Linux does not expect, and then there is no
# AVX; the other features that are left out make the kernel hang there, or slow.
cat > "$work/cd/isolinux.cfg" <<END
DEFAULT linux
LABEL linux
 KERNEL /kernel
 INITRD /initrd
 APPEND console=ttyS0 quiet panic=-1 nokaslr nopti mitigations=off apparmor=0 idle=halt hpet=disable nolapic_timer lpj=1000000 tsc=reliable random.trust_cpu=on noxsaves clearcpuid=pku,ospke,xsaves,xsavec,smap,umip,invpcid,fsgsbase,erms,fsrm,pcid,rdpid,aperfmperf,mwait,tsc_deadline_timer
END
xorriso -as mkisofs -quiet -o "$work/cd.iso" -b isolinux.bin -c boot.cat -no-emul-boot \
  -boot-load-size 4 -boot-info-table "$work/cd" 2> /dev/null
cat > "$work/bochsrc" <<END
cpu: model=${CPU:-corei7_skylake_x}, ips=100000000
memory: guest=1024, host=1024
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=$work/cd.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/serial
display_library: rfb, options="timeout=0"
sound: waveoutdrv=dummy
log: $work/log
clock: sync=none
END
echo c > "$work/commands"
# In a session of its own, as it asks the terminal for commands.
setsid bochs -q -f "$work/bochsrc" -rc "$work/commands" < /dev/null > /dev/null 2>&1 || true
tr -d '\r' < "$work/serial" | sed -n '/^running/,$p'
grep -aq '^exit status 0' "$work/serial"
