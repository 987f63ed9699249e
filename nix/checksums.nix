# What a release uploads, in one folder: the bundles, their documents and the sums of
# all in one file to sign. Publish those made on x86_64-linux: a cross-built and a
# native executable need not have the same bytes.
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
