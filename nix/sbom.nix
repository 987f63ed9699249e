# What the bundles are made of: one SPDX document each.
{ stdenvNoCC, bundles }:
stdenvNoCC.mkDerivation {
  name = "monocrio-sbom";
  dontUnpack = true;
  inherit bundles;
  installPhase = ''
    mkdir -p "$out"
    for b in $bundles; do
      for t in "$b"/*.tar.gz; do
        name=$(basename "$t" .tar.gz)
        tar -xzOf "$t" monocrio/monocrio.spdx.json >"$out/$name.spdx.json"
      done
    done
  '';
}
