# The executable: static, by the script that builds it everywhere else, so that what
# is compiled in and how is said in one place.
{
  buildGo126Module,
  glibc,
  libseccomp,
  pkg-config,
  src,
  commit,
  date,
}:
buildGo126Module {
  pname = "monocrio";
  version = if commit == "" then "unknown" else commit;
  inherit src;
  vendorHash = import ./vendor-hash.nix;
  nativeBuildInputs = [ pkg-config ];
  buildInputs = [
    glibc.static
    (import ./libseccomp-static.nix libseccomp)
  ];
  env = {
    CGO_ENABLED = "1";
    MONOCRIO_COMMIT = commit;
    MONOCRIO_COMMIT_DATE = date;
  };
  buildPhase = ''
    bash scripts/build -o "$TMPDIR/built/monocrio"
  '';
  # Tests need root, namespaces and cgroups: scripts/test runs them.
  doCheck = false;
  installPhase = ''
    install -D -m 755 "$TMPDIR/built/monocrio" "$out/bin/monocrio"
    for name in crio crio-status conmon pinns; do ln -s monocrio "$out/bin/$name"; done
  '';
  # The script has stripped it, and a static file has no path to libraries.
  dontStrip = true;
  dontPatchELF = true;
  meta = {
    description = "Kubernetes node runtime in one file";
    mainProgram = "monocrio";
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
}
