/** `lxstow setup`: creates what gateways and workers need, on NATS and in S3. Safe to repeat. */
import { isCode } from '../../contract/errors.ts';
import type { Config } from '../../contract/schemas.ts';
import { connectNats } from '../../nats/connection.ts';
import { setUp } from '../../nats/setup.ts';
import { createS3Store } from '../../storage/s3/s3.ts';
import type { Log } from '../../telemetry/logger.ts';

const s3PatienceMs = 10_000;

/** Throws if gateways and workers would not be able to start. A store that does not answer is no such fault, because they wait for it. */
export async function setUpAll(config: Config, log: Log): Promise<void> {
  {
    await using nats = await connectNats(config.nats, 'lxstow setup', log);
    await setUp(nats, config);
    log.info('streams, buckets and consumers are set up', { remotes: Object.keys(config.remotes) });
  }
  const { endpoint, bucket } = config.s3;
  using store = createS3Store(config.s3);
  try {
    const made = await store.ensureBucket(AbortSignal.timeout(s3PatienceMs));
    log.info(made ? 'bucket created' : 'the bucket exists', { bucket, endpoint });
  } catch (error) {
    if (!isCode(error, 's3-unavailable') && (error as Error).name !== 'TimeoutError') throw error;
    log.warn('the object store does not answer, so the bucket was not checked', { bucket, error });
  }
}
