# services.monocrio: the CRI daemon of a node, and the kubelet's way to it.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.monocrio;
  toml = pkgs.formats.toml { };
  socket = cfg.settings.crio.api.listen or "/run/crio/crio.sock";
in
{
  options.services.monocrio = {
    enable = lib.mkEnableOption "monocrio, a container runtime for Kubernetes";

    package = lib.mkOption {
      type = lib.types.package;
      description = "The package of monocrio.";
    };

    settings = lib.mkOption {
      inherit (toml) type;
      default = { };
      example = {
        crio.runtime.log_level = "debug";
        crio.metrics.enable_metrics = true;
      };
      description = "What crio.conf says; see crio.conf(5). What is not said here has its default.";
    };

    extraPackages = lib.mkOption {
      type = lib.types.listOf lib.types.package;
      default = [ ];
      description = "Packages whose programs the daemon finds, such as further OCI runtimes.";
    };

    policy = lib.mkOption {
      type = lib.types.path;
      default = ../bundle/etc/policy.json;
      defaultText = lib.literalMD "the bundle's";
      description = "Which images are accepted: containers-policy.json(5). Not put in place where virtualisation.containers has one.";
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [
      cfg.package
      pkgs.cri-tools
    ];
    environment.etc = {
      "crio/crio.conf".source = toml.generate "crio.conf" cfg.settings;
      "crictl.yaml".text = lib.mkDefault ''
        runtime-endpoint: "unix://${socket}"
        image-endpoint: "unix://${socket}"
      '';
    }
    // lib.optionalAttrs (!config.virtualisation.containers.enable) {
      "containers/policy.json".source = cfg.policy;
    };

    boot.kernelModules = [
      "overlay"
      "br_netfilter"
    ];
    boot.kernel.sysctl."net.ipv4.ip_forward" = lib.mkDefault 1;

    # The same service as in bundle/systemd.
    systemd.services.crio = {
      description = "Container runtime for Kubernetes (CRI)";
      aliases = [ "cri-o.service" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      before = [ "kubelet.service" ];
      wantedBy = [ "multi-user.target" ];
      path = cfg.extraPackages;
      restartTriggers = [ config.environment.etc."crio/crio.conf".source ];
      serviceConfig = {
        Type = "notify";
        ExecStart = "${cfg.package}/bin/crio";
        ExecReload = "${pkgs.coreutils}/bin/kill -s HUP $MAINPID";
        # Containers do not end with the daemon: only its own process is told to.
        KillMode = "process";
        Delegate = true;
        TasksMax = "infinity";
        LimitNOFILE = 1048576;
        LimitNPROC = 1048576;
        LimitCORE = "infinity";
        OOMScoreAdjust = -999;
        TimeoutStartSec = 0;
        WatchdogSec = "60s";
        Restart = "on-failure";
        RestartSec = "2s";
      };
    };

    services.kubernetes.kubelet = {
      containerRuntimeEndpoint = lib.mkDefault "unix://${socket}";
    };
  };
}
