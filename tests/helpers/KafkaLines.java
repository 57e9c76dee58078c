import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.Base64;
import java.util.Properties;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Sends what standard input says, with the Java client: "open CODEC [TRANSACTIONAL_ID]", "begin", "send TOPIC KEY
 * VALUE" (both in base64; KEY may be "-"), "commit", "abort", "close". The argument is the brokers' address.
 */
public class KafkaLines {
    public static void main(String[] arguments) throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        KafkaProducer<byte[], byte[]> producer = null;
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.split(" ");
            switch (words[0]) {
                case "open":
                    Properties settings = new Properties();
                    settings.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
                    settings.put(ProducerConfig.COMPRESSION_TYPE_CONFIG, words[1]);
                    settings.put(ProducerConfig.ENABLE_IDEMPOTENCE_CONFIG, true);
                    settings.put(ProducerConfig.LINGER_MS_CONFIG, 20);
                    if (words.length > 2) {
                        settings.put(ProducerConfig.TRANSACTIONAL_ID_CONFIG, words[2]);
                    }
                    ByteArraySerializer bytes = new ByteArraySerializer();
                    producer = new KafkaProducer<>(settings, bytes, bytes);
                    if (words.length > 2) {
                        producer.initTransactions();
                    }
                    break;
                case "begin":
                    producer.beginTransaction();
                    break;
                case "send":
                    byte[] key = words[2].equals("-") ? null : Base64.getDecoder().decode(words[2]);
                    producer.send(new ProducerRecord<>(words[1], key, Base64.getDecoder().decode(words[3])));
                    break;
                case "commit":
                    producer.commitTransaction();
                    break;
                case "abort":
                    producer.flush(); // so that the records are in the log, and not only dropped here
                    producer.abortTransaction();
                    break;
                case "close":
                    producer.close();
                    break;
                default:
                    throw new IllegalArgumentException(line);
            }
        }
    }
}
