import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { LxstowError } from '../../contract/errors.ts';

const snapSocket = '/var/snap/lxd/common/lxd/unix.socket';
const lxdSocket = '/var/lib/lxd/unix.socket';
const incusSocket = '/var/lib/incus/unix.socket';

/**
 * The socket of a host that has neither `socket` nor `url`: from INCUS_SOCKET, INCUS_DIR or LXD_DIR, otherwise that of the installed server, otherwise LXD's
 * usual one. Throws bad-config if both an LXD and an Incus are named by the variables, or installed.
 */
export function defaultSocket(remote: string, env: NodeJS.ProcessEnv, exists: (path: string) => boolean = existsSync) {
  const [first = lxdSocket, second] = knownSockets(env, exists);
  if (second === undefined) return first;
  throw new LxstowError(
    'bad-config',
    `both an LXD (${first}) and an Incus (${second}) are on this machine: set remotes.${remote}.socket to the one to use`,
  );
}

/** The sockets that INCUS_SOCKET, INCUS_DIR and LXD_DIR name; without them, those of the installed servers. */
export function knownSockets(env: NodeJS.ProcessEnv, exists: (path: string) => boolean = existsSync): string[] {
  const named = [
    env.LXD_DIR ? join(env.LXD_DIR, 'unix.socket') : '',
    env.INCUS_SOCKET || (env.INCUS_DIR ? join(env.INCUS_DIR, 'unix.socket') : ''),
  ].filter((path) => path !== '');
  const lxd = exists(snapSocket) ? snapSocket : lxdSocket;
  return named.length > 0 ? named : [lxd, incusSocket].filter(exists);
}
