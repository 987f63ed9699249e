# What scripts/build, scripts/lint and the tests need; libseccomp is for tests that
# compare ours with it.
{
  mkShell,
  cri-tools,
  glibc,
  go_1_26,
  golangci-lint,
  gopls,
  libseccomp,
  pkg-config,
}:
mkShell {
  packages = [
    cri-tools
    go_1_26
    golangci-lint
    gopls
    pkg-config
  ];
  buildInputs = [
    glibc.static
    (libseccomp.overrideAttrs (old: {
      dontDisableStatic = true;
      configureFlags = (old.configureFlags or [ ]) ++ [ "--enable-static" ];
    }))
  ];
}
