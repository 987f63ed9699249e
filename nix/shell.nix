# What scripts/build, scripts/lint and the tests need.
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
    (import ./libseccomp-static.nix libseccomp)
  ];
}
