/** `lxstow standalone`: runs a gateway and a worker in one process, with its own nats-server unless one is configured, and with a store for `s3.folder`. */
import type { Config } from '../../contract/schemas.ts';
import { runGateway } from '../../gateway/main.ts';
import type { Log } from '../../telemetry/logger.ts';
import { runWorker } from '../../worker/main.ts';
import { openFolderStore } from '../standalone/folderStore.ts';
import { openNatsServer } from '../standalone/natsServer.ts';
import { setUpAll } from './setup.ts';

interface StandaloneOptions {
  config: Config;
  reread(): Config;
  env: NodeJS.ProcessEnv;
  log: Log;
  stop: AbortSignal;
  /** Port of its own nats-server; undefined if another one is configured. */
  natsPort: number | undefined;
}

/** Runs until `stop`, or until a part fails: then it stops the others and throws the reason. */
export async function runStandalone(given: StandaloneOptions): Promise<void> {
  const { reread, env, log, stop, natsPort: port } = given;
  const failed = new AbortController();
  await using nats =
    port === undefined ? undefined : await openNatsServer({ config: given.config, env, log, port, failed });
  const withNats = nats?.config ?? given.config;
  await using store =
    withNats.s3.folder === undefined ? undefined : await openFolderStore({ config: withNats, env, log, failed });
  const config = store?.config ?? withNats;
  await setUpAll(config, log);
  const again = () => ({ ...reread(), ...(nats && { nats: config.nats }), ...(store && { s3: config.s3 }) });
  const options = { config, reread: again, env, log, stop: AbortSignal.any([stop, failed.signal]) };
  const stopOthers = (error: unknown) => {
    failed.abort(error);
  };
  await Promise.all([runGateway(options).catch(stopOthers), runWorker(options).catch(stopOthers)]);
  failed.signal.throwIfAborted();
}
