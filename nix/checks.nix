{
  pkgs,
  nixpkgs,
  monocrio,
  module,
}:
let
  inherit (nixpkgs) lib;
  inherit (pkgs.stdenv.hostPlatform) system;
in
{
  static = pkgs.stdenv.mkDerivation {
    name = "monocrio-is-static";
    dontUnpack = true;
    buildPhase = ''
      headers=$("''${READELF:-readelf}" --program-headers --wide ${monocrio}/bin/monocrio)
      echo "$headers"
      case $headers in
        *INTERP* | *DYNAMIC*) echo "monocrio is not static" >&2; exit 1 ;;
        *LOAD*) ;;
        *) echo "readelf shows no program headers" >&2; exit 1 ;;
      esac
    '';
    installPhase = "touch $out";
  };

  runs = pkgs.stdenv.mkDerivation {
    name = "monocrio-runs";
    dontUnpack = true;
    buildPhase = ''
      ${monocrio}/bin/crio --version
      ${monocrio}/bin/monocrio --list | grep -x crio
    '';
    installPhase = "touch $out";
  };
}
# A nixpkgs that is only its packages has no NixOS to evaluate.
// lib.optionalAttrs (lib ? nixosSystem) {
  module =
    let
      inherit
        (lib.nixosSystem {
          modules = [
            module
            {
              nixpkgs.hostPlatform = system;
              boot.isContainer = true;
              system.stateVersion = "26.05";
              services.monocrio = {
                enable = true;
                settings.crio.runtime.log_level = "debug";
              };
            }
          ];
        })
        config
        ;
    in
    pkgs.stdenv.mkDerivation {
      name = "monocrio-module";
      dontUnpack = true;
      start = config.systemd.services.crio.serviceConfig.ExecStart;
      settings = config.environment.etc."crio/crio.conf".source;
      buildPhase = ''
        echo "$start" | grep bin/crio
        grep 'log_level = "debug"' "$settings"
        env -i HOME=/nonexistent ${monocrio}/bin/crio --config="$settings" --config-dir= config >/dev/null
      '';
      installPhase = "touch $out";
    };
}
// lib.optionalAttrs (pkgs ? testers && system == "x86_64-linux") {
  machine = pkgs.testers.runNixOSTest (import ./test.nix { inherit module; });
}
