#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
for block in /sys/block/vd*; do
    echo "disk $(cat $block/serial) is ${block##*/}, $(cat $block/size) sectors, ro $(cat $block/ro)"
    ln -s /dev/${block##*/} /dev/by-$(cat $block/serial)
done
mkdir -p /rw /ro
mount -t erofs -o ro /dev/by-root /ro || echo "FAIL erofs"
(cd /ro && sha256sum -c sums) >/tmp/sums 2>&1 && echo "root verified: $(grep -c OK /tmp/sums) files" || { echo "FAIL sums"; cat /tmp/sums; }
time dd if=/dev/by-root of=/dev/null bs=1M 2>&1
mount -t ext4 /dev/by-scratch /rw || echo "FAIL ext4"
time dd if=/dev/zero of=/rw/big bs=1M count=64 conv=fsync 2>&1
sha256sum /rw/big
rm /rw/big
sync
fstrim -v /rw || echo "FAIL fstrim"
umount /rw || echo "FAIL umount"
dd if=/dev/zero of=/dev/by-root bs=512 count=1 2>/dev/null && echo "FAIL read-only root took a write"
dmesg | grep -iE 'error|warn|virtio|vsock'
exec /guest
