/** What is in the bucket, seen without lxstow: by an S3 client and tar. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { pipeline } from 'node:stream/promises';
import { Client } from 'minio';
import type { LabS3 } from '../lab/s3.ts';

export interface Bucket {
  objects(): Promise<{ key: string; size: number }[]>;
  /** Uploads that were begun and not ended. */
  openUploads(): Promise<number>;
  /** The names in a .tar.gz that lies in the bucket, as `tar tzf -` reads them. Throws when tar is not content. */
  tarEntries(key: string): Promise<string[]>;
}

export function openBucket({ endpoint, accessKey, secretKey, bucket }: LabS3): Bucket {
  const { hostname, port } = new URL(endpoint);
  const client = new Client({ endPoint: hostname, port: Number(port), useSSL: false, accessKey, secretKey });
  return {
    async objects() {
      const found: { key: string; size: number }[] = [];
      for await (const { name = '', size = 0 } of client.listObjectsV2(bucket, '', true))
        found.push({ key: name, size });
      return found;
    },
    async openUploads() {
      let count = 0;
      for await (const _ of client.listIncompleteUploads(bucket, '', true)) count += 1;
      return count;
    },
    async tarEntries(key) {
      const tar = spawn('tar', ['tzf', '-'], { stdio: ['pipe', 'pipe', 'inherit'] });
      const ended = once(tar, 'close');
      const names: string[] = [];
      const reading = (async () => {
        for await (const name of createInterface(tar.stdout)) names.push(name);
      })();
      await pipeline(await client.getObject(bucket, key), tar.stdin);
      const [[status]] = await Promise.all([ended, reading]);
      if (status !== 0) throw new Error(`tar tzf - ended with ${status}`);
      return names;
    },
  };
}
