/** The model of restores (restoreModel.ts), in a process of its own: where an instance that runs gives way. */
import { model } from './restoreModel.ts';

model('a model of replaces', [{ name: 'a replace of what runs', body: { replace: true }, original: 'running' }]);
