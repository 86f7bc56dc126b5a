import { spawn } from 'node:child_process';
import { access, constants, mkdir, readFile, writeFile } from 'node:fs/promises';
import { basename, delimiter, join } from 'node:path';
import { openFolder } from './folder.ts';
import type { Lxstow } from './lxstow.ts';
import { type RunOptions, run } from './run.ts';

/** LXD's own command, or Incus's, of somebody who has the gateway as the remote `stow` and is trusted there. */
export interface UserLxc extends AsyncDisposable {
  (args: string[], options?: RunOptions): Promise<string>;
  /** Starts it, and calls `see` with what it prints; ended when the lab is. */
  start(args: string[], see: (text: string) => void): Disposable;
}

/** Whether there is an `lxc` on this machine. */
export async function hasLxc(): Promise<boolean> {
  const found = (process.env.PATH ?? '').split(delimiter).map((folder) =>
    access(join(folder, 'lxc'), constants.X_OK).then(
      () => true,
      () => false,
    ),
  );
  return (await Promise.all(found)).includes(true);
}

/** A user with a configuration of their own, whose certificate is the lab's client. `command`: another build of it. */
export async function openUserLxc(stow: Lxstow, name: string, command = 'lxc'): Promise<UserLxc> {
  await using opening = new AsyncDisposableStack();
  const folder = opening.use(await openFolder(`${name}-lxc`, () => undefined));
  const conf = join(folder.path, 'conf');
  await mkdir(join(conf, 'servercerts'), { recursive: true });
  await writeFile(join(conf, 'client.crt'), stow.client.cert);
  await writeFile(join(conf, 'client.key'), stow.client.key);
  const { gateway } = JSON.parse(await readFile(stow.configFile, 'utf8')) as { gateway: { stateDir: string } };
  await writeFile(join(conf, 'servercerts', 'stow.crt'), await readFile(join(gateway.stateDir, 'server.crt')));
  const protocol = basename(command) === 'incus' ? 'incus' : 'lxd';
  const remote = { addr: stow.url, auth_type: 'tls', protocol, public: false };
  await writeFile(join(conf, 'config.yml'), JSON.stringify({ 'default-remote': 'stow', remotes: { stow: remote } }));
  const env = { ...folder.env, LXD_CONF: conf, INCUS_CONF: conf };
  const owned = opening.move();
  return Object.assign((args: string[], options: RunOptions = {}) => run(command, args, { env, ...options }), {
    start(args: string[], see: (text: string) => void) {
      const child = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
      for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => see(chunk.toString()));
      child.on('error', (error) => see(error.message));
      return { [Symbol.dispose]: () => void child.kill() };
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  });
}
