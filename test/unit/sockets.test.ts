/** Which server is meant where the configuration does not say. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { isCode } from '../../services/contract/errors.ts';
import { defaultSocket } from '../../services/lxd/connection/sockets.ts';

const snap = '/var/snap/lxd/common/lxd/unix.socket';
const lxd = '/var/lib/lxd/unix.socket';
const incus = '/var/lib/incus/unix.socket';

describe('a remote without a socket', () => {
  for (const [there, env, socket] of [
    [[], {}, lxd],
    [[lxd], {}, lxd],
    [[snap], {}, snap],
    [[incus], {}, incus],
    [[lxd, incus], { LXD_DIR: '/srv/lxd' }, '/srv/lxd/unix.socket'],
    [[lxd, incus], { INCUS_DIR: '/srv/incus' }, '/srv/incus/unix.socket'],
    [[lxd], { INCUS_SOCKET: '/run/incus.socket', INCUS_DIR: '/srv/incus' }, '/run/incus.socket'],
  ] as const) {
    it(`with ${JSON.stringify(env)} and ${there.join(', ') || 'nothing'} there is ${socket}`, () => {
      const exists = (path: string) => (there as readonly string[]).includes(path);
      assert.equal(defaultSocket('local', env, exists), socket);
    });
  }

  for (const [there, env, names] of [
    [[lxd, incus], {}, [lxd, incus]],
    [[snap, lxd, incus], {}, [snap, incus]],
    [[], { LXD_DIR: '/a', INCUS_DIR: '/b' }, ['/a/unix.socket', '/b/unix.socket']],
  ] as const) {
    it(`must be told which one where there are two: ${names.join(', ')}`, () => {
      const exists = (path: string) => (there as readonly string[]).includes(path);
      assert.throws(
        () => defaultSocket('attic', env, exists),
        (error: Error) =>
          isCode(error, 'bad-config') &&
          [...names, 'remotes.attic.socket'].every((word) => error.message.includes(word)),
      );
    });
  }
});
