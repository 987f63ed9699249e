# The tarball that scripts/get installs, by scripts/bundle. printer is the same
# executable for the machine that builds: it prints pages and completions.
{
  stdenvNoCC,
  go_1_26,
  src,
  commit,
  date,
  goarch,
  monocrio,
  printer,
}:
stdenvNoCC.mkDerivation {
  pname = "monocrio-bundle-${goarch}";
  inherit (monocrio) version;
  inherit src;
  nativeBuildInputs = [ go_1_26 ];
  env = {
    MONOCRIO_COMMIT = commit;
    MONOCRIO_COMMIT_DATE = date;
  };
  buildPhase = ''
    export GOCACHE="$TMPDIR/cache" GOPATH="$TMPDIR/go" GOPROXY=off
    cp -r ${printer.goModules} vendor # has the licences
    bash scripts/bundle -b ${monocrio}/bin/monocrio -p ${printer}/bin/monocrio \
      -r ${monocrio.version} -o "$TMPDIR/bundle"
  '';
  installPhase = ''
    mkdir -p "$out"
    cp "$TMPDIR"/bundle/monocrio.* "$out/"
  '';
}
