# The bundles, their documents and the sums of all, in one folder: for those who build by
# Nix and compare with each other. On x86_64-linux: a cross-built and a native executable need
# not have the same bytes. What is published is made by scripts/release, with Debian's
# compiler, and has other bytes; scripts/verify compares with that.
{ stdenvNoCC, bundles }:
stdenvNoCC.mkDerivation {
  name = "monocrio-checksums";
  dontUnpack = true;
  inherit bundles;
  installPhase = ''
    mkdir -p "$out"
    for b in $bundles; do
      cp "$b"/* "$out/"
      for t in "$b"/*.tar.gz; do
        name=$(basename "$t" .tar.gz)
        tar -xzOf "$t" monocrio/monocrio.spdx.json >"$out/$name.spdx.json"
      done
    done
    cd "$out"
    LC_ALL=C sha256sum *.tar.gz *.spdx.json >SHA256SUMS
  '';
}
