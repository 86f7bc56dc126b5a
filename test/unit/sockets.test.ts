/** Which server is meant where the configuration does not say, and what a server over HTTPS is called. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import https from 'node:https';
import type { AddressInfo } from 'node:net';
import { describe, it } from 'node:test';
import tls, { type TLSSocket } from 'node:tls';
import { isCode } from '../../services/contract/errors.ts';
import { LxdClient } from '../../services/lxd/connection/client.ts';
import { defaultSocket } from '../../services/lxd/connection/sockets.ts';
import { makeCertificate } from '../lab/certificates.ts';

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

describe('a server with a certificate of an authority that the machine trusts', () => {
  it('is asked for by its name, and needs no other', async () => {
    const ca = await makeCertificate({ commonName: 'an authority', isCa: true });
    const { cert, key } = await makeCertificate({ commonName: 'localhost', ca });
    const server = https.createServer({ cert, key }, ({ socket, headers }, response) => {
      const metadata = { servername: (socket as TLSSocket).servername, host: headers.host };
      response.end(JSON.stringify({ type: 'sync', metadata }));
    });
    await once(server.listen(0), 'listening');
    const { port } = server.address() as AddressInfo;
    const trusted = tls.getCACertificates('default');
    tls.setDefaultCACertificates([...trusted, ca.cert]);
    try {
      for (const [host, servername] of [
        ['localhost', 'localhost'],
        ['127.0.0.1', false],
      ]) {
        using lxd = new LxdClient('far', { url: `https://${host}:${port}` }, {});
        const signal = AbortSignal.timeout(10_000);
        assert.deepEqual(await lxd.get('/1.0', {}, signal), { servername, host: `${host}:${port}` });
      }
    } finally {
      tls.setDefaultCACertificates(trusted);
      server.close();
    }
  });
});
