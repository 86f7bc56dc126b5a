import { writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { basename, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { environmentFor, findDocker } from './debian.ts';
import { onPath } from './findPart.ts';
import { type LabFolder, openFolder } from './folder.ts';
import { answers, startDaemon } from './processes.ts';
import { mark } from './remnants.ts';
import { type Log, type RunOptions, run } from './run.ts';

/** slirp4netns(1): this machine's loopback, and a resolver. */
const addresses = { machine: '10.0.2.2', resolver: '10.0.2.3' };
/** That of Docker's bridges; slirp4netns ends connections, so what lies behind it does not matter. */
const mtu = 1500;

/** A Docker that shares no network, mount or process with this machine, nor with a Docker that may run here. */
export interface LabDocker extends AsyncDisposable {
  /** Where a container finds what listens on this machine's loopback. */
  readonly machine: string;
  /** Runs docker; returns what it printed. Throws with its standard error. */
  docker(args: string[], options?: RunOptions): Promise<string>;
  /** Runs bash where the published ports are on loopback, and docker is this one. */
  shell(script: string, options?: RunOptions): Promise<string>;
}

/** Why there can be none, in a sentence; undefined where there can. */
export function whyNoDocker(): string | undefined {
  if (process.platform !== 'linux') return 'a private dockerd runs on Linux only';
  if (process.getuid?.() !== 0) return 'a private dockerd needs root';
  const missing = ['unshare', 'nsenter', 'ip', 'mount'].find((name) => !onPath(name));
  if (missing) return `a private dockerd needs ${missing}`;
  return undefined;
}

/**
 * dockerd in namespaces of its own, with slirp4netns for its way out: this machine's iptables, ip_forward and bridges stay as they are.
 * Its containers are processes of its process namespace, and end with it.
 */
export async function startDocker({ log, name }: { log: Log; name: string }): Promise<LabDocker> {
  const tree = await findDocker(log);
  await using opening = new AsyncDisposableStack();
  const folder = opening.use(await openFolder(`${name}-docker`, log));
  const cgroup = basename(folder.path);
  const at = (path: string) => join(folder.path, path);
  const env = environmentFor(tree);
  // Cgroups outlive the processes in them: these are ended here, and not with the folder's others, which are ended later.
  await folder.setUndo(`cgroups() { find /sys/fs/cgroup -depth -type d -path '*/${cgroup}*' "$@"; }
grep -lszx '${mark}=${folder.path}' /proc/[0-9]*/environ | cut -d/ -f3 | xargs -r kill -9
for try in $(seq 100); do
  cgroups -exec rmdir {} + 2>/dev/null
  if [ -z "$(cgroups)" ]; then exit; fi
  sleep 0.1
done
echo 'lab: cgroups of Docker are left' >&2
`);

  const network = await openNetwork(folder, env);
  const socket = at('docker.sock');
  const client = {
    ...env,
    ...folder.env,
    PATH: env.PATH,
    DOCKER_HOST: `unix://${socket}`,
    DOCKER_BUILDKIT: '0',
    COMPOSE_BAKE: 'false',
  };
  await writeFile(at('daemon.json'), '{}'); // not this machine's own
  const docker: LabDocker['docker'] = (args, options = {}) =>
    run('docker', args, { ...options, env: { ...client, ...options.env } });
  await startDaemon({
    command: 'nsenter',
    args: [
      `--net=${network}`,
      ...['unshare', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc', 'tini', '--', 'dockerd'],
      ...['--config-file', at('daemon.json'), '--data-root', at('data'), '--exec-root', at('exec')],
      ...['--pidfile', at('docker.pid'), '--host', `unix://${socket}`],
      ...['--dns', addresses.resolver, '--cgroup-parent', `/${cgroup}`],
    ],
    folder,
    env,
    ready: answers((signal) => docker(['version'], { signal })),
  });
  log(`Docker is ready at ${socket}`);
  const owned = opening.move();
  return {
    machine: addresses.machine,
    docker,
    shell: (script, options = {}) =>
      run('nsenter', [`--net=${network}`, 'bash', '-c', script], {
        ...options,
        env: { ...client, ...options.env },
      }),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** A network namespace with slirp4netns for its way out. It lives as long as its mount, which goes away with the folder; returns the mount's path. */
async function openNetwork(folder: LabFolder, env: NodeJS.ProcessEnv): Promise<string> {
  const [network, api] = [join(folder.path, 'network'), join(folder.path, 'slirp.sock')];
  await writeFile(network, '');
  await run('unshare', [`--net=${network}`, 'ip', 'link', 'set', 'lo', 'up']);
  await startDaemon({
    command: 'slirp4netns',
    args: ['--configure', `--mtu=${mtu}`, '--api-socket', api, '--netns-type=path', network, 'tap0'],
    folder,
    env,
    ready: answers(() => slirp(api, { execute: 'list_hostfwd' })), // it answers once the device is there
  });
  return network;
}

/** One call of slirp4netns's API: a line of JSON each way. */
async function slirp(socket: string, call: object): Promise<void> {
  const connection = connect(socket);
  connection.end(JSON.stringify(call));
  const answer = JSON.parse(await text(connection));
  if (answer.error) throw new Error(`slirp4netns: ${answer.error.desc}`);
}
