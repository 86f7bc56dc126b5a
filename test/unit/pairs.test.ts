/** A gateway that cannot start with its certificate, key or folder says so in doctor's words, as a fault of the configuration. */
import assert from 'node:assert/strict';
import { createPrivateKey } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { exitOf } from '../../services/cli/exit.ts';
import { loadConfig } from '../../services/contract/config.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { serverCertificate } from '../../services/trust/serverCertificate.ts';
import { makeCertificate } from '../lab/certificates.ts';
import { noFile } from '../lab/noFile.ts';

const log = createLogger({ level: 'error', format: 'json' }, {});
const folder = mkdtempSync(join(tmpdir(), 'lxstow-pairs-'));
after(() => rmSync(folder, { recursive: true }));

const start = (variables: Record<string, string>, env: NodeJS.ProcessEnv = {}) =>
  serverCertificate(
    loadConfig({ env: { ...noFile, LXSTOW_S3_ACCESS_KEY: 'a', LXSTOW_S3_SECRET_KEY: 'b', ...variables } }),
    env,
    log,
  );

async function says(starting: Promise<unknown>, words: RegExp): Promise<void> {
  await assert.rejects(starting, (error: Error) => {
    assert.match(error.message, words);
    assert.equal(exitOf(error), 78);
    return true;
  });
}

describe('a pair of files', () => {
  const files: Record<string, string> = {};
  before(async () => {
    const [one, other] = [await makeCertificate({ commonName: 'one' }), await makeCertificate({ commonName: 'other' })];
    const encrypted = createPrivateKey(one.key).export({
      type: 'pkcs8',
      format: 'pem',
      cipher: 'aes-256-cbc',
      passphrase: 'geheim',
    });
    const texts = { cert: one.cert, key: one.key, other: other.key, encrypted: String(encrypted), none: 'nothing' };
    for (const [name, text] of Object.entries(texts)) {
      files[name] = join(folder, name);
      writeFileSync(files[name], text);
    }
  });
  const pair = (certificate: string, key: string) =>
    start({ LXSTOW_GATEWAY_CERTIFICATE: files[certificate] ?? '', LXSTOW_GATEWAY_KEY: files[key] ?? '' });

  it('is taken when it is one', async () => {
    assert.match((await pair('cert', 'key')).cert, /BEGIN CERTIFICATE/);
  });

  for (const [what, certificate, key, words] of [
    [
      'of two',
      'cert',
      'other',
      /the key in .*other does not belong to the certificate\. Set gateway\.certificate and gateway\.key/,
    ],
    ['swapped', 'key', 'cert', /gateway\.certificate: .*key cannot be used: there is no certificate/],
    ['encrypted', 'cert', 'encrypted', /the key in .*encrypted cannot be used: .*without a passphrase/],
    ['that is none', 'cert', 'none', /the key in .*none cannot be used/],
  ] as const)
    it(`${what} is refused`, () => says(pair(certificate, key), words));
});

describe('the state directory', () => {
  it('that cannot be made is named, with what to do', async () => {
    writeFileSync(join(folder, 'file'), '');
    const dir = join(folder, 'file', 'state');
    await says(start({ LXSTOW_GATEWAY_STATE_DIR: dir }), new RegExp(`${dir}: ENOTDIR.*set gateway\\.stateDir`));
  });

  it('where a full disk has left an empty file gets a new pair', async () => {
    const dir = join(folder, 'full');
    const files = ['server.crt', 'server.key'].map((name) => join(dir, name));
    const of = () => start({ LXSTOW_GATEWAY_STATE_DIR: dir });
    const made = await of();
    assert.deepEqual(await of(), made);
    for (const file of files) {
      writeFileSync(file, '');
      assert.match((await of()).cert, /BEGIN CERTIFICATE/);
      assert.deepEqual(await of(), {
        cert: readFileSync(join(dir, 'server.crt'), 'utf8'),
        key: readFileSync(join(dir, 'server.key'), 'utf8'),
      });
    }
    assert.deepEqual(readdirSync(dir).sort(), ['server.crt', 'server.key']);
    assert.equal(statSync(join(dir, 'server.key')).mode & 0o777, 0o600);
  });

  it('that is empty is none', async () => {
    const home = join(folder, 'state-home');
    await start({ LXSTOW_GATEWAY_STATE_DIR: '' }, { STATE_DIRECTORY: '', XDG_STATE_HOME: home });
    await start({}, { STATE_DIRECTORY: join(home, 'lxstow') });
  });
});
