import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Client } from 'minio';
import type { Config } from '../../services/contract/schemas.ts';
import { S3Connection } from '../../services/storage/s3/s3Connection.ts';
import { s3Settings } from '../lab/s3.ts';

const keys = { accessKey: 'access', secretKey: 'secret' };
const key = 'local/default/c1/backup_2026-02-26-07-5218.tar.gz';
const odd = "a b/ü+(1)'!*";
const date = new Date('2026-02-26T07:52:18Z');

const cases: [string, Partial<Config['s3']>, string][] = [
  ['http://127.0.0.1:9000', {}, 'http://127.0.0.1:9000/lxstow/'],
  ['http://[::1]:9000', {}, 'http://[::1]:9000/lxstow/'],
  ['https://s3.example:443/', {}, 'https://s3.example/lxstow/'],
  ['https://s3.example', { pathStyle: false }, 'https://lxstow.s3.example/'],
  ['https://s3.example', { pathStyle: false, bucket: 'lx.stow' }, 'https://s3.example/lx.stow/'],
  ['https://s3.amazonaws.com', {}, 'https://lxstow.s3.us-east-1.amazonaws.com/'],
  ['https://s3.amazonaws.com', { region: 'eu-north-1' }, 'https://lxstow.s3.eu-north-1.amazonaws.com/'],
  ['https://s3.eu-north-1.amazonaws.com', { region: 'eu-north-1' }, 'https://s3.eu-north-1.amazonaws.com/lxstow/'],
];

function connection(endpoint: string, change: Partial<Config['s3']>) {
  const config = { ...s3Settings, endpoint, bucket: 'lxstow', ...keys, idleTimeoutMs: 1000, attempts: 1, ...change };
  return { config, s3: new S3Connection(config) };
}

describe('a presigned URL', () => {
  for (const [endpoint, change, base] of cases)
    it(`of ${endpoint} ${JSON.stringify(change)} is where minio-js has it, with the same signature`, async () => {
      const { config, s3 } = connection(endpoint, change);
      using _ = s3;
      const { hostname, port, protocol } = new URL(endpoint);
      const client = new Client({
        endPoint: hostname.replace(/^\[|\]$/g, ''),
        ...(port ? { port: Number(port) } : {}),
        useSSL: protocol === 'https:',
        ...{ ...keys, region: config.region, pathStyle: config.pathStyle },
      });
      const filename = { 'response-content-disposition': 'attachment; filename="c1.tar.gz"' };
      for (const each of [key, odd]) {
        const url = s3.presign(each, 60, { 'X-Amz-Date': '20260226T075218Z', ...filename });
        assert.ok(url.startsWith(base), url);
        const theirs = new URL(await client.presignedGetObject(config.bucket, each, 60, filename, date));
        const ours = new URL(url);
        assert.equal(ours.host + ours.pathname, theirs.host + theirs.pathname);
        assert.equal(ours.searchParams.get('X-Amz-Signature'), theirs.searchParams.get('X-Amz-Signature'));
      }
    });
});
