# A NixOS machine without network runs a pod of an image that Nix made.
{ module }:
{
  name = "monocrio";

  nodes.machine =
    { pkgs, ... }:
    {
      imports = [ module ];
      virtualisation.memorySize = 2048;
      virtualisation.diskSize = 4096;
      services.monocrio.enable = true;
      environment.systemPackages = [ pkgs.skopeo ];
      environment.etc."test/image.tar".source = pkgs.dockerTools.buildImage {
        name = "localhost/test";
        tag = "1";
        copyToRoot = [ pkgs.pkgsStatic.busybox ];
        config.Cmd = [ "/bin/sh" ];
      };
      environment.etc."test/pod.json".text = builtins.toJSON {
        metadata = {
          name = "pod";
          namespace = "default";
          uid = "1";
          attempt = 0;
        };
        log_directory = "/tmp/logs";
        # The node's network: there is no CNI configuration.
        linux.security_context.namespace_options.network = 2;
      };
      environment.etc."test/container.json".text = builtins.toJSON {
        metadata = {
          name = "hello";
          attempt = 0;
        };
        image.image = "localhost/test:1";
        command = [
          "/bin/sh"
          "-c"
          "echo hello from the pod; exec sleep 600"
        ];
        log_path = "hello.log";
        linux.security_context.namespace_options.network = 2;
      };
    };

  testScript = ''
    machine.wait_for_unit("crio.service")
    machine.succeed("crictl version")
    machine.succeed("skopeo --insecure-policy copy docker-archive:/etc/test/image.tar containers-storage:localhost/test:1")
    pod = machine.succeed("crictl runp /etc/test/pod.json").strip()
    container = machine.succeed(f"crictl create {pod} /etc/test/container.json /etc/test/pod.json").strip()
    machine.succeed(f"crictl start {container}")
    machine.wait_until_succeeds("grep 'hello from the pod' /tmp/logs/hello.log")
    # What runs outlives the daemon.
    machine.systemctl("restart crio.service")
    machine.wait_for_unit("crio.service")
    assert container[:12] in machine.succeed("crictl ps")
    machine.succeed(f"crictl exec {container} /bin/true")
    machine.succeed(f"crictl stopp {pod}", f"crictl rmp {pod}")
  '';
}
