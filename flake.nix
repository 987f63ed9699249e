{
  description = "monocrio: a Kubernetes node runtime in one file";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      each = f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});

      # All that the executable depends on: what changes nothing of it rebuilds nothing.
      # scripts/vendor-hash looks at the same sources.
      code = [
        ./go.mod
        ./go.sum
        ./main.go
        ./applets
        ./internal
        ./scripts
      ];
      bundled = [
        ./bundle
        ./docs/conmon.8.md
        ./docs/pinns.8.md
      ];
      source =
        paths:
        lib.fileset.toSource {
          root = ./.;
          fileset = lib.fileset.unions paths;
        };
      commit = self.rev or self.dirtyRev or "";
      date =
        let
          d = self.lastModifiedDate or "19800101000000";
          at = builtins.substring;
        in
        "${at 0 4 d}-${at 4 2 d}-${at 6 2 d}T${at 8 2 d}:${at 10 2 d}:${at 12 2 d}Z";
      facts = { inherit commit date; };

      # The packages for a node of the kind GOARCH, made on the machine that pkgs is for.
      of = pkgs: goarch: if pkgs.stdenv.hostPlatform.go.GOARCH == goarch then pkgs else cross pkgs goarch;
      cross =
        pkgs: goarch:
        {
          amd64 = pkgs.pkgsCross.gnu64;
          arm64 = pkgs.pkgsCross.aarch64-multiplatform;
        }
        .${goarch};
      monocrio = pkgs: pkgs.callPackage ./nix/package.nix (facts // { src = source code; });
      bundle =
        pkgs: goarch:
        pkgs.callPackage ./nix/bundle.nix (
          facts
          // {
            src = source (code ++ bundled);
            inherit goarch;
            monocrio = monocrio (of pkgs goarch);
            printer = monocrio pkgs;
          }
        );
    in
    {
      packages = each (pkgs: rec {
        default = monocrio pkgs;
        bundle-amd64 = bundle pkgs "amd64";
        bundle-arm64 = bundle pkgs "arm64";
        sbom = pkgs.callPackage ./nix/sbom.nix { bundles = [ bundle-amd64 bundle-arm64 ]; };
        checksums = pkgs.callPackage ./nix/checksums.nix { bundles = [ bundle-amd64 bundle-arm64 ]; };
      });

      checks = each (
        pkgs:
        import ./nix/checks.nix {
          inherit pkgs nixpkgs;
          monocrio = monocrio pkgs;
          module = self.nixosModules.default;
        }
      );

      devShells = each (pkgs: {
        default = pkgs.callPackage ./nix/shell.nix { };
      });

      formatter = each (pkgs: pkgs.nixfmt);

      overlays.default = final: _prev: { monocrio = monocrio final; };

      nixosModules.default =
        { pkgs, lib, ... }:
        {
          imports = [ ./nix/module.nix ];
          services.monocrio.package = lib.mkDefault (monocrio pkgs);
        };
    };
}
