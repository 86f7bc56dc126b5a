/** Where the demo's container lives: a real LXD, or the simulator where there is none. */
import { request } from 'node:http';
import { json } from 'node:stream/consumers';
import type { LabLxd } from '../lab/lxd.ts';
import type { LxdSimulator } from '../simulator/simulator.ts';

export interface Host {
  /** What people call it. */
  readonly name: string;
  readonly socket: string;
  readonly project: string;
  /** Each returns the command that does the same by hand. */
  launch(instance: string, dataMiB: number): Promise<string>;
  remove(instance: string): Promise<string>;
  /** Whether it is there and runs: `web,RUNNING`, or nothing. */
  look(instance: string): Promise<{ command: string; lines: string[] }>;
  /** Path of each file → type, mode, owner, time and SHA-256: see fingerprintOf(). */
  fingerprint(instance: string): Promise<Map<string, string>>;
  /** Runs something in the instance; undefined where nothing can run. */
  exec?(instance: string, args: string[]): Promise<{ command: string; output: string }>;
}

export function realHost(lxd: LabLxd): Host {
  const { lxc, project } = lxd;
  const typed = (...args: string[]) =>
    ['lxc', ...(project === 'default' ? [] : ['--project', project]), ...args].join(' ');
  return {
    name: `LXD ${lxd.version}`,
    socket: lxd.socket,
    project,
    async launch(instance, dataMiB) {
      await lxd.launch(instance, { dataMiB });
      return typed('launch', 'bb', instance);
    },
    async remove(instance) {
      await lxc(['delete', '-f', instance]);
      return typed('delete', '-f', instance);
    },
    async look() {
      const listed = await lxc(['list', '-f', 'csv', '-c', 'ns']);
      return { command: typed('list', '-f', 'csv', '-c', 'ns'), lines: listed.trim().split('\n').filter(Boolean) };
    },
    fingerprint: (instance) => lxd.fingerprint(instance),
    async exec(instance, args) {
      const output = await lxc(['exec', instance, '--', ...args]);
      return { command: typed('exec', instance, '--', ...args), output: output.trim() };
    },
  };
}

/** Its instances are files, and nothing runs in them; what a worker asks of LXD it does as LXD does. */
export function simulatedHost(simulator: LxdSimulator): Host {
  const { socket } = simulator;
  return {
    name: 'the simulator',
    socket,
    project: 'default',
    async launch(instance, dataMiB) {
      await simulator.createInstance(instance, { dataMiB });
      return `(the simulator makes ${instance})`;
    },
    async remove(instance) {
      await simulator.deleteInstance(instance);
      return `(the simulator deletes ${instance})`;
    },
    async look(instance) {
      const path = `/1.0/instances/${instance}`;
      const { metadata } = await get(socket, path);
      return {
        command: `curl -s --unix-socket $LXD_DIR/unix.socket http://lxd${path}`,
        lines: metadata ? [`${metadata.name},${metadata.status.toUpperCase()}`] : [],
      };
    },
    fingerprint: (instance) => simulator.fingerprint(instance),
  };
}

function get(socketPath: string, path: string): Promise<{ metadata: { name: string; status: string } | null }> {
  return new Promise((resolve, reject) => {
    request({ socketPath, path }, (response) => json(response).then((body) => resolve(body as never), reject))
      .on('error', reject)
      .end();
  });
}
