#!/bin/sh
# Makes longshore's Debian package. usage: deb.sh STAGE OUT: STAGE is what `make install DESTDIR=STAGE PREFIX=/usr` made.
set -eu

stage=$1
out=$2
here=$(dirname "$0")
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/../../Cargo.toml" | head -n 1)
arch=$(dpkg --print-architecture)

# What belongs to Debian's places and forms.
mv "$stage/usr/share/zsh/site-functions" "$stage/usr/share/zsh/vendor-completions"
mkdir -p "$stage/usr/lib" "$stage/usr/share/doc/longshore" "$stage/DEBIAN"
sed -i 's/^#group = /group = /' "$stage/etc/longshore/config.toml"
find "$stage/usr/share/man" -type f -exec gzip -9n {} +
cp "$here/debian/copyright" "$stage/usr/share/doc/longshore/"
gzip -9nc "$here/../../CHANGELOG.md" > "$stage/usr/share/doc/longshore/CHANGELOG.md.gz"
gzip -9nc > "$stage/usr/share/doc/longshore/changelog.gz" <<EOF
longshore ($version) unstable; urgency=medium

  * What changed is in CHANGELOG.md.gz.

 -- longshore maintainers <longshore@localhost.localdomain>  $(LC_ALL=C date -u -R -r "$here/../../CHANGELOG.md")
EOF
strip --strip-unneeded --remove-section=.comment --remove-section=.note "$stage"/usr/bin/*

# The libraries that the dynamic programs need, by the packages that have them here.
depends=$(for program in "$stage"/usr/bin/*; do
    ldd "$program" 2>/dev/null | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p'
done | sort -u | while read -r library; do
    dpkg -S "$(realpath "$library")" 2>/dev/null || dpkg -S "$library" 2>/dev/null || dpkg -S "/usr$library"
done | sed 's/:.*//' | sort -u | while read -r package; do
    echo "$package (>= $(dpkg-query -W -f '${source:Upstream-Version}' "$package"))"
done | paste -s -d , | sed 's/,/, /g')
depends="init-system-helpers (>= 1.54), passwd${depends:+, $depends}"

sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" -e "s/@DEPENDS@/$depends/" \
    -e "s/@SIZE@/$(du -sk --apparent-size "$stage" | cut -f 1)/" "$here/debian/control.in" > "$stage/DEBIAN/control"
for script in postinst prerm postrm; do
    install -m 0755 "$here/debian/$script" "$stage/DEBIAN/$script"
done
(cd "$stage" && find etc -type f | sed 's|^|/|') > "$stage/DEBIAN/conffiles"
(cd "$stage" && find usr -type f -exec md5sum {} +) > "$stage/DEBIAN/md5sums"
chmod -R u+rwX,go+rX,go-w "$stage"
mkdir -p "$out"
dpkg-deb --root-owner-group --build "$stage" "$out/longshore_${version}_$arch.deb"
